package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// event is one line of `go test -json` (go doc test2json). A build's events
// carry ImportPath instead of Package.
type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Elapsed     float64 // seconds
	Output      string
	FailedBuild string
}

// result is one test that ended, or that was still running when its package did.
type result struct {
	name    string
	action  string // "pass", "fail", "skip", "" while it runs
	seconds float64
	output  strings.Builder
}

// suite is what is known of one package.
type suite struct {
	tests  map[string]*result
	order  []*result
	output strings.Builder // what belongs to no test
}

type timed struct {
	name    string
	seconds float64
}

// tally counts leaf tests: a test with subtests is counted through them, unless
// it failed and none of them did.
type tally struct {
	passed, failed, skipped int
	slow                    []timed
	skips                   []string
	told                    map[string]bool // what the compiler said, once for each text
}

// slowest is how long a test may take, in seconds, before it is named, and
// listed the most that are.
const (
	slowest = 5
	listed  = 10
)

// summarise reads events until the end of in and reports packages as they end.
func summarise(in io.Reader, out io.Writer) (*tally, error) {
	t := &tally{told: make(map[string]bool)}
	suites := make(map[string]*suite)
	builds := make(map[string]*strings.Builder)
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil || e.Action == "" {
				fmt.Fprintf(out, "%s", line) // not an event: a message of the go command
			} else {
				t.take(&e, suites, builds, out)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return t, err
		}
	}
	for name, s := range suites {
		// go test was ended before this package could be.
		t.close(s, &event{Package: name, Action: "fail"}, "", out)
	}
	return t, nil
}

func (t *tally) take(e *event, suites map[string]*suite, builds map[string]*strings.Builder, out io.Writer) {
	if strings.HasPrefix(e.Action, "build-") {
		b := builds[e.ImportPath]
		if b == nil {
			b = &strings.Builder{}
			builds[e.ImportPath] = b
		}
		b.WriteString(e.Output)
		return
	}
	s := suites[e.Package]
	if s == nil {
		s = &suite{tests: make(map[string]*result)}
		suites[e.Package] = s
	}
	if e.Test == "" {
		switch e.Action {
		case "output":
			s.output.WriteString(e.Output)
		case "pass", "fail", "skip":
			var build string
			if b := builds[e.FailedBuild]; b != nil {
				build = b.String()
			}
			t.close(s, e, build, out)
			delete(suites, e.Package)
		}
		return
	}
	r := s.tests[e.Test]
	if r == nil {
		r = &result{name: e.Test}
		s.tests[e.Test] = r
		s.order = append(s.order, r)
	}
	switch e.Action {
	case "output":
		r.output.WriteString(e.Output)
	case "pass", "fail", "skip":
		r.action, r.seconds = e.Action, e.Elapsed
		if e.Action == "pass" {
			r.output.Reset()
		}
	}
}

// close counts a package that ended with event e.
func (t *tally) close(s *suite, e *event, build string, out io.Writer) {
	passed, failed, skipped := 0, 0, 0
	for _, r := range s.order {
		if r.action == "" {
			r.action = "fail" // it never ended: a panic, a timeout, an exit
		}
		leaf := !s.hasChild(r.name, "")
		switch {
		case r.action == "pass" && leaf:
			passed++
		case r.action == "skip" && leaf:
			skipped++
			t.skips = append(t.skips, fmt.Sprintf("%s %s: %s", e.Package, r.name, reason(r.output.String())))
		case r.action == "fail":
			fmt.Fprintf(out, "\n--- %s %s\n%s", e.Package, r.name, r.output.String())
			if leaf || !s.hasChild(r.name, "fail") {
				failed++
			}
		}
		if leaf && r.seconds >= slowest {
			t.slow = append(t.slow, timed{e.Package + " " + r.name, r.seconds})
		}
	}
	if e.Action == "fail" && failed == 0 {
		failed++ // it did not build, or TestMain, or the race detector after the last test
	}
	if e.Action == "fail" {
		// One broken package breaks all that import it, in the same words.
		for line := range strings.Lines(build + s.output.String()) {
			if !t.told[line] {
				fmt.Fprint(out, line)
			}
			t.told[line] = true
		}
	}
	t.passed, t.failed, t.skipped = t.passed+passed, t.failed+failed, t.skipped+skipped
	if e.Action == "skip" && len(s.order) == 0 {
		return // no test files
	}
	word := map[string]string{"pass": "ok  ", "fail": "FAIL", "skip": "skip"}[e.Action]
	fmt.Fprintf(out, "%s %-52s %6.1f s %5d passed", word, e.Package, e.Elapsed, passed)
	if failed > 0 {
		fmt.Fprintf(out, ", %d failed", failed)
	}
	if skipped > 0 {
		fmt.Fprintf(out, ", %d skipped", skipped)
	}
	fmt.Fprintln(out)
}

// hasChild reports whether a subtest of name ended with action, any if "".
func (s *suite) hasChild(name, action string) bool {
	for _, r := range s.order {
		if strings.HasPrefix(r.name, name+"/") && (action == "" || r.action == action) {
			return true
		}
	}
	return false
}

// reason picks what a skipped test said of itself.
func reason(output string) string {
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			return line
		}
	}
	return "no reason given"
}

// print writes what was slow, what was skipped and why, and the counts.
func (t *tally) print(out io.Writer) {
	slices.SortFunc(t.slow, func(a, b timed) int {
		if a.seconds > b.seconds {
			return -1
		}
		return 1
	})
	if len(t.slow) > 0 {
		fmt.Fprintf(out, "\nslow, %d s and more:\n", slowest)
	}
	for i, s := range t.slow {
		if i == listed {
			fmt.Fprintf(out, "  and %d more\n", len(t.slow)-listed)
			break
		}
		fmt.Fprintf(out, "  %6.1f s  %s\n", s.seconds, s.name)
	}
	if len(t.skips) > 0 {
		fmt.Fprintln(out, "\nskipped:")
	}
	for _, s := range t.skips {
		fmt.Fprintln(out, " ", s)
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
}
