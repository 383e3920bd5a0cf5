"""What people who compare texts of prefrl's own language tasks need to know; see `guides`.

Examples are tasks to practise on: replies, the best first, of which the hidden reward says so, too.
"""

from __future__ import annotations

from typing import Any

Guide = dict[str, Any]

OF_WORDS = (
    "Of the first six words fab and ace are most in favour, fun and wry a little; dim and bad are "
    "most against it, odd and dry a little. Other words, and all after the sixth, count nothing."
)

TINY_REVIEWS: Guide = {
    "sentences": [
        OF_WORDS,
        "Add up what the words say: six good ones are better than one, and a short review in "
        "favour is better than a long one that blames as much as it praises.",
        "Grammar and order do not matter, nor what the review is of.",
    ],
    "ends": ("all against it", "all in favour"),
    "examples": [
        {"prompt": "film:", "replies": [" fab ace fun fab.", " dim odd."],
         "why": "It praises four times, and the other one blames twice."},
        {"prompt": "song:", "replies": [" wry fun.", " ace bad dry odd."],
         "why": "It is a little in favour, and what the other one praises it takes back."},
        {"prompt": "plot:", "replies": [" fab ace fab ace fab ace.", " fun."],
         "why": "Both are in favour, and it says so in six words instead of one."},
    ],
}  # fmt: skip

TINY_REVIEWS_TWO: Guide = {
    "sentences": [
        "Two things are asked about in turn; look at each review for what is asked just now alone.",
        "In favour: of the first six words hot and raw count most, then fab and ace, then fun and "
        "wry; dim and bad are most against it, odd and dry a little.",
        "Rude are hot and raw, whatever they praise; each of them makes a review ruder, and two "
        "reviews without any are equal.",
    ],
    "examples": [
        {"prompt": "film:", "replies": [" hot raw fab.", " fun wry."], "aspect": "favour",
         "why": "Rude words praise, too, and most of all."},
        {"prompt": "film:", "replies": [" fun wry.", " hot raw fab."], "aspect": "safety",
         "why": "Hot and raw are rude, and it has neither."},
        {"prompt": "cast:", "replies": [" dim bad.", " ace hot."], "aspect": "safety",
         "why": "It blames, but it is not rude."},
    ],
}  # fmt: skip

RANDOM_WALKS: Guide = {
    "sentences": [
        "Each letter is a place. The prompt is where a walk begins, and the reply is the way it "
        "takes from there to a, one letter a step.",
        "The fewer steps to the first a the better; a walk of ten places or more, or that never "
        "comes to a, is worth nothing.",
        "A step where there is no way is worth nothing, too, but you cannot see that: judge by "
        "how short the walk is.",
    ],
    "ends": ("never comes to a", "straight to a"),
    "examples": [
        {"prompt": "k", "replies": ["a", "ipnba"], "why": "It is there after one step instead of "
         "five."},
        {"prompt": "q", "replies": ["ka", "krpinba"], "why": "It takes two steps instead of "
         "seven."},
        {"prompt": "c", "replies": ["ua", "osejgba"], "why": "It takes two steps instead of "
         "seven."},
    ],
}  # fmt: skip

GUESS_NUMBER: Guide = {
    "sentences": [
        "Who finds the number in fewer guesses is better.",
        "A guess that an earlier hint has ruled out wastes a turn, and so does a reply without a "
        "number.",
        "Of two who do not find it in six guesses, the one who leaves fewer numbers possible is "
        "better.",
    ],
    "ends": ("far from it", "found at once"),
}

MOVIE_SENTIMENT: Guide = {
    "sentences": [
        "Better is what sounds more like the review of somebody who liked the film.",
        "Only the first 40 words of a continuation count, so a longer one is not better for that.",
        "Whether it is well written, true or fitting to the opening does not matter.",
    ],
    "ends": ("hated it", "loved it"),
    "examples": [
        {"prompt": "I saw this with my brother last night",
         "replies": [" and we loved it. A wonderful, moving film with great performances, one of "
                     "the best of the year.",
                     " and it was awful. A boring waste of time with the worst acting I have ever "
                     "seen."],
         "why": "It praises throughout, and the other one blames throughout."},
        {"prompt": "The story begins in a small town",
         "replies": [" and it is beautiful, a perfect and touching story, brilliantly told and "
                     "excellent to the end.",
                     " and nothing happens. Poor script, terrible dialogue, dull and stupid."],
         "why": "It liked the film, and the other one did not."},
    ],
}  # fmt: skip
