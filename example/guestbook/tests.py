"""Tests of the guestbook, as a page and as JSON."""

from unittest import mock

from django.test import Client, TestCase

from . import views
from .models import Entry

URL = "/guestbook.json"


class PageTests(TestCase):
    def test_entry_is_stored_and_shown(self):
        """Who signs comes back to the page and finds the message there."""
        form = {"name": "Ada", "message": "Lovely <river>"}
        response = self.client.post("/guestbook/", form, follow=True)
        self.assertRedirects(response, "/guestbook/")
        self.assertContains(response, "Lovely &lt;river&gt;")
        self.assertContains(response, "Ada")

    def test_bad_entries_are_explained_and_not_stored(self):
        """Empty and overlong entries are refused beside the field."""
        cases = [
            ({"name": "", "message": " "}, "This field is required."),
            ({"name": "", "message": "x" * 501}, "at most 500 characters"),
            ({"name": "x" * 61, "message": "Hello"}, "at most 60 characters"),
            ({"name": "", "message": "a\0b"}, "Null characters are not allowed."),
            ({}, "Nobody has signed yet"),
        ]
        for form, expected in cases:
            with self.subTest(expected):
                self.assertContains(self.client.post("/guestbook/", form), expected)
        self.assertEqual(0, Entry.objects.count())

    def test_form_is_protected_against_forgery(self):
        """A post from another site, without the token, is refused."""
        response = Client(enforce_csrf_checks=True).post("/guestbook/", {"message": "Hello"})
        self.assertEqual(403, response.status_code)
        self.assertEqual(0, Entry.objects.count())


class JsonTests(TestCase):
    def post(self, body: bytes | str, content_type: str = "text/plain"):
        client = Client(enforce_csrf_checks=True)
        return client.post(URL, body, content_type=content_type)

    def test_posted_text_becomes_an_entry(self):
        """The body is the message, whatever type the client claims; the answer has its id."""
        for content_type in ("text/plain", "application/x-www-form-urlencoded"):
            response = self.post("Grüße=1&2", content_type)
            self.assertEqual(201, response.status_code)
            entry = Entry.objects.get(pk=response.json()["id"])
            self.assertEqual("Grüße=1&2", entry.message)

    def test_ids_come_in_order(self):
        """The list counts every entry and has the ids, oldest first."""
        ids = [self.post(f"entry {n}").json()["id"] for n in range(3)]
        expected = {"count": 3, "ids": ids, "next": None}
        self.assertEqual(expected, self.client.get(URL).json())
        rest = self.client.get(URL, {"after": ids[0]}).json()
        self.assertEqual({"count": 3, "ids": ids[1:], "next": None}, rest)

    def test_long_list_comes_in_parts(self):
        """A client that follows "next" gets every id once."""
        ids = [self.post(f"entry {n}").json()["id"] for n in range(5)]
        seen, after = [], 0
        with mock.patch.object(views, "IDS_MAX", 2):
            while after is not None:
                answer = self.client.get(URL, {"after": after}).json()
                self.assertLessEqual(len(answer["ids"]), 2)
                seen += answer["ids"]
                after = answer["next"]
        self.assertEqual(ids, seen)

    def test_bad_bodies_are_refused(self):
        """A body that cannot be an entry is refused with the reason, and not stored."""
        cases = [
            (b"", 400, "This field is required."),
            (b"\xff\xfe", 400, "the body is not UTF-8 text"),
            (b"a\0b", 400, "Null characters are not allowed."),
            (b"x" * 5000, 413, "the body is too long; send at most 4096 bytes"),
            (
                b"x" * 501,
                400,
                "Ensure this value has at most 500 characters (it has 501).",
            ),
        ]
        for body, status, error in cases:
            with self.subTest(error):
                response = self.post(body)
                self.assertEqual(
                    (status, {"error": error}), (response.status_code, response.json())
                )
        self.assertEqual(0, Entry.objects.count())

    def test_bad_after_is_refused(self):
        """Only an id is taken for ?after=."""
        for after in ("x", "-1", "1.5", "²", str(2**63), "9" * 5000):
            response = self.client.get(URL, {"after": after})
            self.assertEqual(400, response.status_code)
            self.assertEqual(
                {"error": "after: not an id; write e.g. /guestbook.json?after=0"}, response.json()
            )

    def test_other_methods_are_refused(self):
        """Entries cannot be changed or deleted from outside."""
        for method in ("put", "patch", "delete"):
            self.assertEqual(405, getattr(self.client, method)(URL).status_code)
