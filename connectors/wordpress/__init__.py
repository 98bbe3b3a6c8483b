"""What can be done with the posts of a WordPress site, by its REST API. Safe to import in workflow code.

`WordPressConnector` and the models of posts. Must not break: a draft carries its key in its slug, so a look-up finds
it again. A new action is a model in `_posts` and a declaration in `_connector`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.connectors.wordpress._connector import (
        WORDPRESS,
        Draft,
        Post,
        PostId,
        Publish,
        Restore,
        WordPressAction,
        WordPressConnector,
    )
else:
    __getattr__ = lazy(
        __name__,
        {
            "_connector": [
                "Draft",
                "Post",
                "PostId",
                "Publish",
                "Restore",
                "WORDPRESS",
                "WordPressAction",
                "WordPressConnector",
            ],
        },
    )

__all__ = [
    "WORDPRESS",
    "Draft",
    "Post",
    "PostId",
    "Publish",
    "Restore",
    "WordPressAction",
    "WordPressConnector",
]
