from django import forms

from .models import Entry


class EntryForm(forms.ModelForm):
    class Meta:
        model = Entry
        fields = ["name", "message"]
        labels = {"name": "Your name (optional)", "message": "Your message"}
        widgets = {"message": forms.Textarea(attrs={"rows": 3})}
