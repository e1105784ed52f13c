"""Pages for readers, and two for whoever looks after the site."""

import math
import time

from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django.views.generic import DetailView, ListView

from .models import Article
from .node import cached_note, node_name

SLOW_DEFAULT_S = 1.5
SLOW_MAX_S = 10.0


class ArticleList(ListView):
    model = Article
    paginate_by = 12


class ArticleDetail(DetailView):
    model = Article


@never_cache
@require_safe
def status(request: HttpRequest) -> JsonResponse:
    """Say who answers and what it sees in the database and in the cache."""
    return JsonResponse(
        {
            "node": node_name(),
            "articles": Article.objects.count(),
            "cached": cached_note(),
            "database": connection.vendor,
            "visitor": request.META["REMOTE_ADDR"],
        }
    )


@never_cache
@require_safe
def slow(request: HttpRequest) -> HttpResponse:
    """Answer after ?seconds=, at least 0 and at most 10: a request to watch while it runs."""
    try:
        wanted_s = float(request.GET.get("seconds", SLOW_DEFAULT_S))
    except ValueError:
        wanted_s = math.nan
    if math.isnan(wanted_s):
        return HttpResponseBadRequest(
            "seconds: not a number; write e.g. /slow/?seconds=1.5\n", content_type="text/plain"
        )
    seconds = min(max(wanted_s, 0.0), SLOW_MAX_S)
    time.sleep(seconds)
    return render(request, "articles/slow.html", {"seconds": seconds, "max_seconds": SLOW_MAX_S})
