"""Whether a text holds code that nothing marks as such. Meant to see it too often rather than too rarely: whoever asks
would damage it."""

from __future__ import annotations

import re

_NAME = r"[A-Za-z_]\w{0,60}"
_START = r"^[ \t]{0,99}"
_CODE = re.compile("|".join((
    # anywhere
    r"[\w!]\((?:[rbfu$@]?[\"']|\)(?!\w)|&(?=\w))",  # f("…", f(), f(&x
    rf"\.{_NAME}\(",
    rf"\b{_NAME}(?:_\w|[a-z][A-Z])\w{{0,60}}\(",  # snake_case( and camelCase(
    r"\w\([^()\n]{1,80}, ?[rbfu]?(?:\"[^\"\n]{0,80}\"|'[^'\n]{0,80}')[,)]",  # f(x, "…")
    r"[\"')\]] {0,3}\+ {0,3}[\w\"']|\w {0,3}\+ {0,3}[\"']",  # "…" + x
    r"(?<![=\w])= {0,3}[rbfu$@]?(?:\"[^\"\n]{0,200}\"|'[^'\n]{0,200}'|\"\"\"|''')",
    r"\"[\w -]{1,60}\" {0,3}: {0,3}[\"\[{\d]",  # JSON
    r"==|!=|=>|\+=|-=|\+\+[;)]|&&|\|\||(?<=[\w ]):=|\w::\w|\$\{|\$\(|\$_[A-Z]|<-|->\w|\(\*\w|\w\[[\"'\w]{1,40}\] ?=",
    r"\$[a-z_]\w{0,60} {0,3}(?:=|->|\[|;|\|)",
    r"(?<![\w'’])s([/|#])[^/\n]{1,200}\1[^/\n]{0,200}\1",  # sed and Perl
    r"\b(?:sed|awk|grep|perl|xargs|tr|echo|printf?|puts|cat|jq|xmllint|curl|return|throw|raise|assert|yield) {1,3}"
    r"(?:[$'\"]|-{1,2}[A-Za-z])|\b(?:console|document|System|std|fmt|os)(?:\.|::)\w",
    r"\b(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE TABLE|ALTER TABLE|WHERE)\b[^\n]{0,300}"
    r"(?:\bFROM\b|\bSET\b|=|\()",
    r"\\(?:begin|end|frac|text\w\w|newcommand)\{",
    # whole lines
    rf"{_START}(?:def|fn|func|function|sub|proc) {_NAME} ?[(<{{]",
    rf"{_START}(?:class|interface|struct|enum|trait|impl|namespace|module) {_NAME}[^\n]{{0,80}}[:{{(]",
    rf"{_START}(?:import|from|using|package|require|include|use) [\w.{{*\"'<:/-]{{1,80}}(?: import\b|;|[ \t]*$)",
    rf"{_START}(?:public|private|protected|static|final|export|async|void|unsigned) \w",
    rf"{_START}(?:const|let|var|val|int|char|float|bool|auto|[sS]tring|my|local|set) [$@]?{_NAME}[\w\[\]]* ?[=;:]",
    rf"{_START}(?:if|else|for|foreach|while|switch|try|catch|except|finally|elif|with|do|then|fi|done|esac)"
    r"(?:\b[^\n]{0,200}[:{]|;)?[ \t]*\n(?:[ ]{2,}|\t)",
    rf"{_START}(?:if|for|foreach|while|switch|catch) ?\(",
    rf"{_START}(?:#include|#define|#if|#!/|//|/\*|\*/|<\?php|%>|>>> |\$ [a-z]|--\[\[|@\w+\()",
    rf"{_START}[{{}}\])]{{1,3}}[ \t]{{0,9}}[;,]?[ \t]{{0,9}}$",
    r"[)\]}\"'][;{][ \t]{0,9}$",
    rf"{_START}\(?[\"'][^\n]{{0,300}}[\"'],[ \t]{{0,9}}$",  # a string in a list
    rf"{_START}[\w.$\[\]]{{1,60}} {{0,3}}(?:[-+*/|&.]?|:)= {{0,3}}[^\n;=]{{1,200}};[ \t]{{0,9}}$",
)), re.M)


def holds_code(text: str) -> bool:
    """Whether something in it looks like a call, a statement, a command, a query, or JSON."""
    return bool(_CODE.search(text))
