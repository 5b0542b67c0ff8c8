"""The browser and its page; here, so that other tests of the service do not need Playwright."""

from helpers.browser import chromium, page, service

__all__ = ["chromium", "page", "service"]
