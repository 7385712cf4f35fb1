"""Answers that answer nothing: refusals in the stock phrases of chat models, and what stands for an absent answer.

Coarse on purpose, and quick: `eval_suites/refusal` judges models, here rows are counted that say what every chat model
says. A refusal in words of its own is content, and may be what the data is for.
"""

from __future__ import annotations

import re

from sft_core.data.curate.characters import without_unseen

OPENING = 300
"""Characters in which a refusal shows, if it is one."""
_AI = r"(?:an? )?(?:ai|a\.i\.|artificial intelligence|(?:large )?language model|chatbot|virtual assistant)\b"
_CANNOT = (
    r"(?:can(?:no|')t|can not|could not|couldn't|am not (?:able|capable|programmed|comfortable)|'m not (?:able"
    r"|capable|programmed|comfortable)|am unable|'m unable|will not|won't|do not have|don't have"
    r"|do not possess|don't possess|do not hold|don't hold|have no|lack|must clarify|must decline"
    r"|must respectfully|am only able|does not have|doesn't have|(?:is|it's|it is) not (?:able|appropriate"
    r"|possible|within))"
)
_HELP = (r"(?:assist|help|provid|fulfil|comply|answer|respond|support|generat|engag|discuss|creat|writ|complet|offer"
         r"|suggest|recommend|give|do that|advis|shar|continu|accommodat|process|satisf|tell|make)")
_STOCK = re.compile("|".join((
    rf"\bas {_AI}(?! (?:compan|startup|firm|engineer|research|expert|lab|team|student|enthusiast|tool))"
    rf"[^.!?\n]{{0,80}}?\b(?:i|we|it)\b ?{_CANNOT}",
    rf"\b(?:i am|i'm) (?:just |only |simply )?{_AI}[^.!?\n]{{0,60}}?\b{_CANNOT}",
    rf"\A\W*(?:i'm |i am |we're |we are )?(?:very |so |truly |really )?(?:sorry|apologi[sz]e|unfortunately|i'm afraid"
    rf"|i regret)[^.!?\n]{{0,60}}?\b(?:i|we) ?{_CANNOT}\b[^.!?\n]{{0,40}}?\b{_HELP}",
    rf"\A\W*i ?(?:can(?:no|')t|can not|am unable to|'m unable to|am not able to|'m not able to|will not|won't)"
    rf" {_HELP}\w*\b[^.!?\n]{{0,40}}?\b(?:you|request|that|this|content|information|instructions|advice"
    r"|guidance|reasons|assistance)\b",
    r"\A\W*(?:no, )?(?:it is|it's|this is) (?:not|never) (?:appropriate|acceptable|ethical|okay|right)(?: or \w+)? to"
    r" (?:provide|discuss|suggest|promote|encourage|support|assist|give|share|make such)\b",
    r"\A\W*(?:i am|i'm) (?:really |very |so )?sorry,? (?:but )?(?:that|this|it)(?: is|'s) (?:not |beyond)",
    r"\A\W*sorry,? (?:but )?(?:i|we|it|this|that|the (?:request|input|given))\b[^.!?\n]{0,60}?\b(?:not|n't|cannot)\b",
    r"\b(?:cannot|can't|could not|not) be (?:completed|done|performed|generated|provided|created|executed|fulfilled)"
    r" by (?:an? |the )?(?:gpt|ai\b|large language|language model)"
    r"|\bgpt(?:-\d)?(?: language)? models? (?:cannot|can't)\b",
    # German, French, Spanish, Italian, Portuguese, Russian, Chinese, Japanese
    r"\bals (?:ki|k\.i\.|künstliche intelligenz|(?:ki-)?sprachmodell)\b[^.!?\n]{0,60}?\b(?:kann|habe|bin|darf) ich\b"
    r"[^.!?\n]{0,60}?\b(?:nicht|kein\w*)\b",
    r"\A\W*(?:es )?tut mir leid[^.!?\n]{0,30}?\b(?:kann|darf)\b[^.!?\n]{0,60}?\bnicht\b",
    r"\ben tant qu['’](?:ia|intelligence artificielle|assistant|modèle de langage)\b[^.!?\n]{0,80}?\b(?:ne|n['’])",
    r"\A\W*(?:je suis )?désolée?[^.!?\n]{0,40}?\bje ne (?:peux|suis) pas\b",
    r"\bcomo (?:una? )?(?:ia|inteligência artificial|inteligencia artificial|modelo de (?:lenguaje|linguagem))\b"
    r"[^.!?\n]{0,60}?\b(?:no|não)\b",
    r"\A\W*(?:lo siento|sinto muito|mi dispiace|desculpe)[^.!?\n]{0,40}?\b(?:no|não|non) (?:puedo|posso)\b",
    r"\bin quanto (?:ia|intelligenza artificiale|modello linguistico)\b[^.!?\n]{0,60}?\bnon\b",
    r"\bкак (?:ии|искусственный интеллект|языковая модель)\b[^.!?\n]{0,60}?\bне\b",
    r"\A\W*(?:извините|к сожалению|простите)[^.!?\n]{0,40}?\bя не могу\b",
    r"作为(?:一个|一名)?(?:人工智能|AI|大型?语言模型|语言模型)[^。！？\n]{0,40}?(?:无法|不能|没有)",
    r"\A\W*(?:很?抱歉|对不起)[^。！？\n]{0,30}?(?:无法|不能)",
    r"\A\W*(?:申し訳|すみません)[^。！？\n]{0,60}?(?:できません|いたしかねます|お答えできま)",
)), re.I)
_MAY_REFUSE = (
    "language model", "an ai", "a.i.", "chatbot", "virtual", "gpt", "artificial", "can't", "won't", "don't", "couldn't",
    "cannot", "can not", "not able", "sorry", "unable", "apolog", "unfortunately", "will not", "must decline",
    "must clarify", "appropriate to", "acceptable to", "ethical to", "okay to", "right to", "appropriate or",
    "als k", "sprachmodell", "tut mir leid", "siento", "sinto", "dispiace", "desculp", "como ", "en tant", "in quanto",
)
"""One of these stands in every one in ASCII; looking for them costs a fiftieth of looking for it."""
_PLACEHOLDER = re.compile(
    r"<?\s*(?:no ?(?:in|out)put|(?:none|no answer|nothing) (?:available|provided|given|needed|required)|n/?a|null|nan"
    r"|nil|undefined|todo|tbd|placeholder|(?:your|the|insert|enter|type)(?: \w+){0,2} (?:answer|response|output|text)"
    r"(?: here)?|empty|blank|lorem ipsum.*)\s*>?[.!]?"
    r"|(?:the )?(?:output|response|answer|result|completion|assistant|gpt)\s*:?"
    r"|\[[A-Za-z][A-Za-z '-]{3,99}\]|<[A-Za-z][A-Za-z '-]{3,99}>", re.I | re.DOTALL)
_MARKED = re.compile(r"<\s*no ?(?:in|out)put\s*>", re.I)
_SAYS = re.compile(r"\w")
_SILENT = ("", ".", "..", "...", "…", "-", "--", "?")
_LONGEST_PLACEHOLDER = 120


def is_refusal(answer: str) -> bool:
    """Whether it declines in a stock phrase, in its first sentences."""
    opening = answer[:OPENING].replace("’", "'").casefold()
    return (not opening.isascii() or any(map(opening.__contains__, _MAY_REFUSE))) and bool(_STOCK.search(opening))


def is_placeholder(answer: str) -> bool:
    """Whether it stands for an answer that is not there: `<noinput>`, `N/A`, `Output:`, `[your answer here]`, `...`.

    A bracket alone counts with words in it only: `[]` and `{}` are answers of programs.
    """
    text = answer.strip()
    if len(text) > _LONGEST_PLACEHOLDER:
        return False
    text = without_unseen(text).strip()
    if not _SAYS.search(text):
        return text in _SILENT
    return bool(_MARKED.match(text) or _PLACEHOLDER.fullmatch(text))
