"""The guestbook as a page for people and as JSON for programs."""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from .forms import EntryForm
from .models import Entry

ENTRIES_SHOWN = 50
BODY_MAX_BYTES = 4096
IDS_MAX = 10_000
ID_LARGEST = 2**63 - 1


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def guestbook(request: HttpRequest) -> HttpResponse:
    """Show the newest entries and take a new one."""
    form = EntryForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        form.save()
        return redirect("guestbook")
    context = {"form": form, "entries": Entry.objects.all()[:ENTRIES_SHOWN]}
    return render(request, "guestbook/guestbook.html", context)


@csrf_exempt  # No cookie is read here, so there is no visitor's authority to borrow.
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def entries(request: HttpRequest) -> JsonResponse:
    """POST: store the body, plain text, as an entry. GET: list the ids after ?after=."""
    return _add(request) if request.method == "POST" else _list(request)


def _add(request: HttpRequest) -> JsonResponse:
    body = request.read(BODY_MAX_BYTES + 1)
    if len(body) > BODY_MAX_BYTES:
        return _error(f"the body is too long; send at most {BODY_MAX_BYTES} bytes", 413)
    try:
        message = body.decode()
    except UnicodeDecodeError:
        return _error("the body is not UTF-8 text", 400)
    form = EntryForm({"message": message})
    if not form.is_valid():
        return _error(" ".join(form.errors["message"]), 400)
    return JsonResponse({"id": form.save().pk}, status=201)


def _list(request: HttpRequest) -> JsonResponse:
    after = request.GET.get("after", "0")
    if not (after.isascii() and after.isdigit() and len(after) < 20 and int(after) <= ID_LARGEST):
        return _error("after: not an id; write e.g. /guestbook.json?after=0", 400)
    ids = Entry.objects.filter(pk__gt=int(after)).order_by("pk").values_list("pk", flat=True)
    page = list(ids[: IDS_MAX + 1])
    return JsonResponse(
        {
            "count": Entry.objects.count(),
            "ids": page[:IDS_MAX],
            "next": page[IDS_MAX - 1] if len(page) > IDS_MAX else None,
        }
    )


def _error(text: str, status: int) -> JsonResponse:
    return JsonResponse({"error": text}, status=status)
