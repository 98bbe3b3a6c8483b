"""What can be done with the posts of a WordPress site, by its REST API? Safe to import in workflow code.

Must not break: a draft carries its effect's key in its slug, and every other action is proven by the post's own status, so
a look-up finds out what happened without a plugin on the site. A password goes to the site's own address only.
A new action is a model and a body in `_posts` and a declaration in `_connector`; what the site says of itself is read in
`_schema`.
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
