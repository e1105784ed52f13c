"""Articles, the only content of the site that editors write."""

from django.db import models
from django.urls import reverse
from django.utils import timezone


class Article(models.Model):
    title = models.CharField(max_length=120)
    slug = models.SlugField(max_length=120, unique=True)
    body = models.TextField(max_length=20_000)
    image = models.ImageField(upload_to="articles/", blank=True)
    published = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        # The second key keeps pages stable among articles of the same second.
        ordering = ["-published", "-pk"]

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("article", args=[self.slug])
