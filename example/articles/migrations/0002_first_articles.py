"""Three articles, so that a new database has something to show."""

from datetime import UTC, datetime

from django.db import migrations

ARTICLES = [
    {
        "slug": "the-ferry-that-waits",
        "title": "The ferry that waits",
        "published": datetime(2025, 3, 8, 7, 30, tzinfo=UTC),
        "body": (
            "The ferry leaves when it is full, or when Marta says so, which is usually sooner. "
            "There is a timetable on the landing, but nobody has ever seen her look at it.\n\n"
            "If one boat is out for repair, the other takes all passengers and simply crosses "
            "more often. Most people on the far bank never learn that anything was wrong."
        ),
    },
    {
        "slug": "five-herons-before-breakfast",
        "title": "Five herons before breakfast",
        "published": datetime(2025, 4, 19, 6, 10, tzinfo=UTC),
        "body": (
            "They stand a stone's throw apart and share the river without a word. When one is "
            "disturbed and leaves, the others move up a little and the gap is closed.\n\n"
            "By seven the mist was gone and so were they. The fish, one supposes, were relieved."
        ),
    },
    {
        "slug": "high-water-marks",
        "title": "High-water marks",
        "published": datetime(2025, 6, 2, 17, 45, tzinfo=UTC),
        "body": (
            "On the wall of the old mill somebody has cut a line for every flood since 1784. "
            "The highest one is above the door, and the miller's family kept a boat in the attic "
            "for a hundred years because of it.\n\n"
            "They never needed it. That, said the last miller, is what it was for."
        ),
    },
]


def add_articles(apps, schema_editor):
    articles = apps.get_model("articles", "Article").objects.using(schema_editor.connection.alias)
    for article in ARTICLES:
        articles.get_or_create(slug=article["slug"], defaults=article)


def remove_articles(apps, schema_editor):
    articles = apps.get_model("articles", "Article").objects.using(schema_editor.connection.alias)
    articles.filter(slug__in=[article["slug"] for article in ARTICLES]).delete()


class Migration(migrations.Migration):
    dependencies = [("articles", "0001_initial")]

    operations = [migrations.RunPython(add_articles, remove_articles)]
