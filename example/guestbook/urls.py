from django.urls import path

from . import views

urlpatterns = [
    path("guestbook/", views.guestbook, name="guestbook"),
    path("guestbook.json", views.entries, name="guestbook-json"),
]
