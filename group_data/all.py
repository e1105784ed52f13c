"""What holds for every host, and the sites. Every setting is explained in docs/settings.md."""

sites = [
    dict(
        name="example",
        source="example",
        settings="mysite.settings",
        domains=["example.test", "www.example.test"],
    ),
]
