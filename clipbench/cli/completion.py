"""TAB in bash, zsh and fish: the script for each, and the answers that it asks for. The words themselves:
candidates.py.
"""

from __future__ import annotations

import re
import shlex
from contextlib import suppress

from clipbench.cli.candidates import candidates
from clipbench.cli.commands import SHELLS
from clipbench.cli.keys import FOLDERS
from clipbench.errors import UserError, nearest
from clipbench.escape import on_one_line

PLAIN = re.compile(r"[\w.,:=/@%+-]*")
BEFORE_THE_PROGRAM = re.compile(r"\w+=|(and|or|not|time|command|env)$")
BASH = r"""# TAB for clipbench in bash: eval "$(clipbench completion bash)"
_clipbench() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ $line == :folders ]]; then
            compopt -o filenames +o nospace 2>/dev/null  # bash 3 has none
            while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -d -- "$2")
        else
            COMPREPLY+=("$line")
        fi
    done < <("${1/#\~/$HOME}" complete bash "$COMP_POINT" "$COMP_LINE" "$2" 2>/dev/null)
}
complete -o nospace -F _clipbench clipbench
"""

ZSH = r"""# TAB for clipbench in zsh: eval "$(clipbench completion zsh)"
_clipbench() {
    local before="${(j: :)words[1,CURRENT-1]} $PREFIX" line word
    local -a open closed
    for line in "${(@f)$(${~words[1]} complete zsh ${#before} "$before ${(j: :)words[CURRENT+1,-1]}" 2>/dev/null)}"; do
        if [[ $line == :folders ]]; then
            compset -P '*='
            _files -/
            return
        fi
        word=${${line%%$'\t'*}//:/\\:}
        if [[ $word == *= ]]; then open+=("$word:${line#*$'\t'}"); elif [[ -n $word ]]; then closed+=("$word:${line#*$'\t'}"); fi
    done
    compset -P '*[=,]'
    open=("${(@)open#$IPREFIX}") closed=("${(@)closed#$IPREFIX}")
    _describe -V clipbench open -S '' -- closed
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _clipbench clipbench
"""  # noqa: E501

FISH = r"""# TAB for clipbench in fish: clipbench completion fish | source
function __clipbench_complete
    set -l program (commandline -opc | string match -r '^.*clipbench$' | string replace -r '^~' $HOME)[1]
    set -l answer ($program complete fish (commandline -pC) (commandline -p | string collect) 2>/dev/null)
    if test "$answer" != :folders
        printf '%s\n' $answer
        return
    end
    set -l key (string match -r '^.*=' -- (commandline -ct))
    for folder in (__fish_complete_directories (string replace -r '^.*=' '' -- (commandline -ct)) '')
        echo "$key"$folder
    end
end
complete -c clipbench -f -a '(__clipbench_complete)'
"""


def script(shell: str) -> str:
    if shell not in SHELLS:
        raise UserError(f"Unknown shell '{shell}'.{nearest(shell, SHELLS)} Known: {', '.join(SHELLS)}.")
    return {"bash": BASH, "zsh": ZSH, "fish": FISH}[shell]


def answer(shell: str, point: str, line: str, text: str = "") -> list[str]:
    """What may stand at the cursor, after `point` characters of `line`, with what it is. For bash, what
    replaces `text`, its part of the word there.
    """
    typed, rest = line[: int(point)], line[int(point) :]
    before = split(typed)
    while len(before) > 1 and BEFORE_THE_PROGRAM.match(before[0]):
        before.pop(0)
    _, *before, current = before
    after = split(rest.lstrip())
    if not rest[:1].isspace():  # the other half of the word at the cursor
        after = after[1:]
    found = candidates(before, current, after)
    lines = []
    # a name of a user's file may hold what a shell would run: only words that need no quotes are offered
    found = {word: on_one_line(note) for word, note in found.items() if PLAIN.fullmatch(word)}
    for word, note in found.items():
        if word == FOLDERS:
            lines.append(word)
        elif shell != "bash":
            lines.append(f"{word}\t{note}")
        else:
            ends = not word.endswith("=") and not _open_quote(typed)
            lines.append(word[len(current) - len(text) :] + (" " if ends else ""))
    return lines


def split(line: str) -> list[str]:
    """The words as a shell would have them; the last is "" after a space, and goes to the end of the line
    where its quote is open.
    """
    if re.search(r"(?<!\\)(\\\\)*\\$", line):  # half of an escaped character
        line = line[:-1]
    quote = _open_quote(line)
    words = shlex.split(line + quote)
    return words if quote or re.search(r"\S$|\\ $", line) else [*words, ""]


def _open_quote(line: str) -> str:
    for end in ("", "'", '"'):
        with suppress(ValueError):
            shlex.split(line + end)
            return end
    return ""
