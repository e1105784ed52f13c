"""Tests of the articles, the status page and the upload in the admin."""

import io
import tempfile
from pathlib import Path
from unittest import mock

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.staticfiles import finders
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.db import connection
from django.test import SimpleTestCase, TestCase, override_settings
from django.urls import reverse
from mysite.settings import database_from_url
from PIL import Image

from . import admin
from .models import Article
from .node import NOTE_KEY

MANIFEST_STORAGE = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"


def png() -> SimpleUploadedFile:
    """Return a small picture as a browser would upload it."""
    data = io.BytesIO()
    Image.new("RGB", (32, 18), "#0f5c63").save(data, "PNG")
    return SimpleUploadedFile("river.png", data.getvalue(), "image/png")


class ReaderTests(TestCase):
    def setUp(self):
        cache.delete(NOTE_KEY)
        self.addCleanup(cache.delete, NOTE_KEY)

    def test_new_database_shows_three_articles(self):
        """A site that was just installed has something to read."""
        response = self.client.get("/")
        self.assertContains(response, 'class="card"', 3)
        self.assertContains(response, "High-water marks")

    def test_article_has_its_own_page(self):
        """Each article is at the address that the list links to."""
        for article in Article.objects.all():
            self.assertContains(self.client.get(article.get_absolute_url()), article.title)

    def test_body_is_escaped(self):
        """Markup in an article's text is shown, not run."""
        Article.objects.create(title="<b>T</b>", slug="t", body="<script>alert(1)</script>")
        self.assertContains(self.client.get("/articles/t/"), "&lt;script&gt;alert(1)")

    def test_unknown_article_is_not_found(self):
        """An unknown slug is answered 404, in the site's own dress."""
        response = self.client.get("/articles/no-such-article/")
        self.assertContains(response, "There is no such page", status_code=404)

    def test_long_list_is_paged(self):
        """The list stays short however many articles there are."""
        Article.objects.bulk_create(
            Article(title=f"Note {n}", slug=f"note-{n}", body="…") for n in range(20)
        )
        self.assertContains(self.client.get("/"), 'class="card"', 12)
        self.assertContains(self.client.get("/?page=2"), 'class="card"', 11)

    def test_empty_site_still_answers(self):
        """Without any article the list says so."""
        Article.objects.all().delete()
        self.assertContains(self.client.get("/"), "Nothing is written yet")


class NodeTests(TestCase):
    def setUp(self):
        cache.delete(NOTE_KEY)
        self.addCleanup(cache.delete, NOTE_KEY)

    def test_note_keeps_the_name_of_who_computed_it(self):
        """The node is the one that answers, the note comes from whoever was first."""
        with mock.patch("socket.gethostname", return_value="web1"):
            first = self.client.get("/status.json").json()
        with mock.patch("socket.gethostname", return_value="web2"):
            second = self.client.get("/status.json").json()
            page = self.client.get("/")
        self.assertEqual({"node", "articles", "cached", "database", "visitor"}, set(first))
        self.assertEqual(("web1", "web2"), (first["node"], second["node"]))
        self.assertEqual("web1", first["cached"]["by"])
        self.assertEqual(first["cached"], second["cached"])
        self.assertEqual(3, first["articles"])
        self.assertEqual(connection.vendor, first["database"])
        self.assertContains(page, '<strong id="node">web2</strong>', html=True)
        self.assertContains(page, first["cached"]["text"])

    @override_settings(
        CACHES={"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    )
    def test_site_answers_while_the_cache_is_lost(self):
        """A cache that keeps nothing costs the note its age, not the reader the page."""
        self.assertRegex(self.client.get("/status.json").json()["cached"]["text"], r"^cached at ")
        self.assertContains(self.client.get("/"), "cached at")

    def test_slow_page_sleeps_within_bounds(self):
        """The slow page takes the time asked for, never less than 0 or more than 10 seconds."""
        cases = {"": 1.5, "?seconds=0.2": 0.2, "?seconds=-3": 0.0, "?seconds=1e9": 10.0}
        cases |= {"?seconds=inf": 10.0}
        for query, expected_s in cases.items():
            with self.subTest(query), mock.patch("time.sleep") as sleep:
                self.assertEqual(200, self.client.get(f"/slow/{query}").status_code)
                sleep.assert_called_once_with(expected_s)

    def test_slow_page_refuses_what_is_no_number(self):
        """Anything but a number is refused at once, with an example."""
        for value in ("soon", "nan", ""):
            with self.subTest(value), mock.patch("time.sleep") as sleep:
                response = self.client.get("/slow/", {"seconds": value})
                self.assertContains(response, "write e.g. /slow/?seconds=1.5", status_code=400)
                sleep.assert_not_called()


class AdminTests(TestCase):
    def setUp(self):
        media = tempfile.TemporaryDirectory()
        self.addCleanup(media.cleanup)
        self.media = Path(media.name)
        self.enterContext(override_settings(MEDIA_ROOT=media.name))
        self.client.force_login(get_user_model().objects.create_superuser("editor"))
        self.form = {
            "title": "A picture",
            "slug": "a-picture",
            "body": "Look.",
            "published_0": "2025-07-01",
            "published_1": "12:00:00",
        }

    def test_uploaded_picture_is_stored_and_shown(self):
        """A picture uploaded in the admin is on the list, on its page and in the admin."""
        add = reverse("admin:articles_article_add")
        response = self.client.post(add, self.form | {"image": png()})
        self.assertRedirects(response, reverse("admin:articles_article_changelist"))
        article = Article.objects.get(slug="a-picture")
        self.assertTrue((self.media / article.image.name).is_file())
        change = reverse("admin:articles_article_change", args=[article.pk])
        for page in ("/", article.get_absolute_url(), change, response.url):
            self.assertContains(self.client.get(page), f'src="{article.image.url}"')

    def test_only_pictures_are_taken(self):
        """A file that is no picture is refused and not stored."""
        fake = SimpleUploadedFile("river.png", b"<script>", "image/png")
        add = reverse("admin:articles_article_add")
        response = self.client.post(add, self.form | {"image": fake})
        self.assertContains(response, "Upload a valid image")
        self.assertEqual([], list(self.media.rglob("*.png")))

    def test_huge_picture_is_refused(self):
        """A picture above the limit is refused with its size and the limit."""
        add = reverse("admin:articles_article_add")
        with mock.patch.object(admin, "IMAGE_MAX_BYTES", 50):
            response = self.client.post(add, self.form | {"image": png()})
        self.assertContains(response, "at most 50\xa0bytes are allowed")

    def test_text_can_be_edited_while_the_picture_is_out_of_reach(self):
        """A title is corrected without reading the picture's file."""
        article = Article.objects.create(title="T", slug="t", body="B", image="articles/gone.png")
        change = reverse("admin:articles_article_change", args=[article.pk])
        response = self.client.post(change, self.form | {"title": "Corrected"})
        self.assertEqual(302, response.status_code)
        article.refresh_from_db()
        self.assertEqual(("Corrected", "articles/gone.png"), (article.title, article.image.name))


class SettingsTests(SimpleTestCase):
    def test_every_part_of_the_database_url_is_read(self):
        """Special characters survive in every part, and options reach the driver."""
        expected = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "my site",
            "USER": "us@er",
            "PASSWORD": "p%40a's$\"@:/\\#é",
            "HOST": "db1",
            "PORT": "5433",
            "OPTIONS": {"sslmode": "require"},
        }
        actual = database_from_url(
            "postgresql://us%40er:p%2540a%27s%24%22%40%3A%2F%5C%23%C3%A9@db1:5433/my%20site"
            "?sslmode=require"
        )
        self.assertEqual(expected, actual)

    def test_other_schemes_are_refused_without_showing_the_password(self):
        """The message names the scheme and the right form, and keeps the secret."""
        with self.assertRaises(ImproperlyConfigured) as caught:
            database_from_url("oracle://me:secret@db1/site")
        self.assertEqual(
            "DATABASE_URL: the scheme 'oracle' is not supported; "
            "write postgresql://user:password@host:port/name",
            str(caught.exception),
        )


class StaticTests(TestCase):
    def test_pages_work_with_hashed_names(self):
        """Every static file that a page names exists, also under its hashed name."""
        storages = settings.STORAGES | {"staticfiles": {"BACKEND": MANIFEST_STORAGE}}
        with (
            tempfile.TemporaryDirectory() as root,
            override_settings(STATIC_ROOT=root, STORAGES=storages),
        ):
            call_command("collectstatic", interactive=False, verbosity=0)
            response = self.client.get("/")
            self.assertRegex(response.content.decode(), r"/static/css/site\.[0-9a-f]{12}\.css")

    def test_own_files_are_found(self):
        """The style sheet and the drawings are where the templates look for them."""
        for name in ("css/site.css", "img/logo.svg", "img/cover.svg"):
            self.assertIsNotNone(finders.find(name), name)
