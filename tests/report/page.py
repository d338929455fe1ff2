"""Reading a page of HTML back."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Checks that tags close in order and gathers text and attributes."""

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.attributes, self.tags = [], "", [], set()
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in ("img", "input", "meta"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
