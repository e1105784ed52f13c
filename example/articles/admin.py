from django import forms
from django.contrib import admin
from django.core.files.uploadedfile import UploadedFile
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html

from .models import Article

IMAGE_MAX_BYTES = 10 * 1024 * 1024


class ArticleForm(forms.ModelForm):
    def clean_image(self):
        image = self.cleaned_data["image"]
        # Only what is uploaded now: a stored picture need not be readable to edit a title.
        if isinstance(image, UploadedFile) and image.size > IMAGE_MAX_BYTES:
            raise forms.ValidationError(
                f"The picture has {filesizeformat(image.size)}; "
                f"at most {filesizeformat(IMAGE_MAX_BYTES)} are allowed."
            )
        return image


@admin.register(Article)
class ArticleAdmin(admin.ModelAdmin):
    form = ArticleForm
    list_display = ["title", "thumbnail", "published"]
    search_fields = ["title", "body"]
    date_hierarchy = "published"
    prepopulated_fields = {"slug": ["title"]}
    readonly_fields = ["thumbnail"]
    fields = ["title", "slug", "body", "image", "thumbnail", "published"]

    @admin.display(description="Preview", empty_value="–")
    def thumbnail(self, article: Article) -> str | None:
        if not article.image:
            return None
        return format_html(
            '<img src="{}" alt="" height="48" style="border-radius:4px">', article.image.url
        )
