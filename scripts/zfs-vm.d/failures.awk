# Cuts the output of a test binary run with -test.v down to the tests that failed, were
# skipped or never ended, and to what belongs to no test, such as a panic.
/^=== / { split($3, path, "/"); current = path[1]; next }
/^--- / {
  show = $2 != "PASS:"
  if (show) printf "%s\n%s", $0, text[$3]
  delete text[$3]
  current = ""
  next
}
/^ +--- SKIP/ || (/^ +--- FAIL/ && show) { print; next }
/^ +--- / || /^(PASS|FAIL)$/ { next }
{ text[current] = text[current] $0 "\n" }
END { for (test in text) printf "%s%s", (test ? test " did not end:\n" : ""), text[test] }
