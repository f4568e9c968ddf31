#!/bin/sh
# The form of commit messages: a subject of at most 72 characters that ends in no full stop, an empty line, a reason.
#   tools/commits.sh origin/main..HEAD     of these commits; merges are left out
#   tools/commits.sh FILE                  of one that is being written, as a commit-msg hook
set -u
cd "$(git rev-parse --show-toplevel)" || exit 1
status=0

fault() { printf '%s: %s\n' "$1" "$2" >&2; status=1; }

# $1 is what it is called, the message comes in.
check() {
    message=$(sed '/^# -* >8/,$d; /^#/d')
    subject=$(printf '%s\n' "$message" | head -n 1)
    case $subject in "Merge "* | "Revert "* | "fixup! "* | "squash! "*) return ;; esac
    [ "$(printf %s "$subject" | wc -m)" -le 72 ] || fault "$1" "the subject has more than 72 characters: $subject"
    case $subject in *.) fault "$1" "the subject ends in a full stop: $subject" ;; esac
    [ -z "$(printf '%s\n' "$message" | sed -n 2p)" ] || fault "$1" "the line after the subject is not empty: $subject"
    [ -n "$(printf '%s\n' "$message" | sed 1,2d | tr -d '[:space:]')" ] || fault "$1" "says no reason: $subject"
}

case ${1:?a range of commits, or a file with a message} in
    *..*)
        commits=$(git rev-list --no-merges "$1") || exit 1
        for commit in $commits; do
            check "$(git rev-parse --short "$commit")" <<EOF
$(git show --no-patch --format=%B "$commit")
EOF
        done
        ;;
    *) check "$1" <"$1" ;;
esac
exit $status
