"""Findings about captions: what weakens training, and what a trainer would read otherwise than it is written.

`caption.check_caption(item, context)` looks at one picture, `dataset_wide.check_set(items, context)` at what only all
of them together show. `context.CheckContext` holds what both go by; `rules.RULES` lists everything that is looked for.
"""
