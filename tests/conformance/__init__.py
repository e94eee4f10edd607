"""The conformance suite: the same cases, with the same expectations, on every kubelet.

``kubelet`` is the interface that cases see, ``real`` and ``fake`` are what is behind it; ``subjects`` are the plugins; ``lab``
puts them together for one case. ``cases`` has the cases by theme, each a coroutine function with one sentence. ``table`` shows
what came of it, and ``mutants`` shows that each promise has a case that notices when it is broken.
"""
