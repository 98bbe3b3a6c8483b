"""Where the REST API of a WordPress site is: below /wp-json, or in a query where permalinks are plain (case 27)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from kits.connectors import Server, reply

from perdure.connectors import Attempt
from perdure.connectors.wordpress import PostId, WordPressConnector
from perdure.errors import EffectRejected

ATTEMPT = Attempt(key="pe-1", fence=1, deadline=timedelta(seconds=5))


def site(url: str) -> WordPressConnector:
    """Return the connector of the site at URL."""
    return WordPressConnector().with_options({"url": url, "user": "perdure", "password": "p w"})


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("/blog/", "/blog/wp-json/wp/v2/posts/7?context=edit"),
        ("/?rest_route=/", "/?rest_route=/wp/v2/posts/7&context=edit"),
        ("?rest_route=", "/?rest_route=/wp/v2/posts/7&context=edit"),
        ("/blog/index.php?lang=de&rest_route=/", "/blog/index.php?rest_route=/wp/v2/posts/7&lang=de&context=edit"),
    ],
)
async def test_where_the_api_is(server: Server, url: str, asked: str) -> None:
    """With plain permalinks the path of the API is a parameter, and what was its query stays one (case 27)."""
    server.answers = [reply(404, {"code": "rest_post_invalid_id", "message": "Invalid post ID."})]
    blog = site(server.url + url)

    with pytest.raises(EffectRejected, match=r"answered 404: Invalid post ID\.$"):
        await blog.execute(blog.actions["wordpress.post"], PostId(post=7), ATTEMPT)
    await blog.close()

    assert asked == server.heads[0].split()[1]


@pytest.mark.parametrize("answer", [reply(404, b"<html>"), reply(404, {"code": "rest_no_route"}), reply(404)])
async def test_no_api_there(server: Server, answer: bytes) -> None:
    """A 404 that is not the API's says what to do (case 27)."""
    server.answers = [answer]
    blog = site(server.url)

    with pytest.raises(EffectRejected, match=r"Turn on pretty permalinks, or set url to the address with \?rest_route=/"):
        await blog.execute(blog.actions["wordpress.post"], PostId(post=7), ATTEMPT)
    await blog.close()
