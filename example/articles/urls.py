from django.urls import path

from . import views

urlpatterns = [
    path("", views.ArticleList.as_view(), name="articles"),
    path("articles/<slug:slug>/", views.ArticleDetail.as_view(), name="article"),
    path("slow/", views.slow, name="slow"),
    path("status.json", views.status, name="status"),
]
