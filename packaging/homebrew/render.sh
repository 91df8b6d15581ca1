#!/usr/bin/env bash
# Prints the Homebrew formula of a release.
#
#   packaging/homebrew/render.sh REPOSITORY_URL VERSION SOURCE_TARBALL > fulmar.rb
set -euo pipefail
here=$(dirname "$0")
repository=$1 version=$2 sha256=$(sha256sum "$3" | cut -d ' ' -f 1)
sed -e "s|@REPOSITORY@|$repository|g" -e "s|@VERSION@|$version|g" -e "s|@SHA256@|$sha256|g" "$here/fulmar.rb.in"
