"""The guestbook: what visitors write."""

from django.db import models


class Entry(models.Model):
    name = models.CharField(max_length=60, blank=True)
    message = models.CharField(max_length=500)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]
        verbose_name_plural = "entries"

    def __str__(self) -> str:
        return f"{self.name or 'A visitor'}: {self.message[:40]}"
