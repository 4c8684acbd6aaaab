package main

import (
	"strings"
	"testing"
)

// lines are events as go test -json writes them.
func lines(events ...string) *strings.Reader {
	return strings.NewReader(strings.Join(events, "\n") + "\n")
}

func TestCounts(t *testing.T) {
	for _, tt := range []struct {
		name   string
		events []string
		want   string
		shows  string
	}{
		{"leaves only", []string{
			`{"Action":"run","Package":"p","Test":"A"}`,
			`{"Action":"run","Package":"p","Test":"A/x"}`,
			`{"Action":"run","Package":"p","Test":"A/y"}`,
			`{"Action":"pass","Package":"p","Test":"A/x"}`,
			`{"Action":"skip","Package":"p","Test":"A/y"}`,
			`{"Action":"pass","Package":"p","Test":"A"}`,
			`{"Action":"pass","Package":"p"}`,
		}, "1 passed, 0 failed, 1 skipped", "A/y: no reason given"},
		{"parent fails by itself", []string{
			`{"Action":"pass","Package":"p","Test":"A/x"}`,
			`{"Action":"output","Package":"p","Test":"A","Output":"cleanup went wrong\n"}`,
			`{"Action":"fail","Package":"p","Test":"A"}`,
			`{"Action":"fail","Package":"p"}`,
		}, "1 passed, 1 failed, 0 skipped", "cleanup went wrong"},
		{"parent fails through its child", []string{
			`{"Action":"fail","Package":"p","Test":"A/x"}`,
			`{"Action":"fail","Package":"p","Test":"A"}`,
			`{"Action":"fail","Package":"p"}`,
		}, "0 passed, 1 failed, 0 skipped", "--- p A/x"},
		{"does not build", []string{
			`{"Action":"build-output","ImportPath":"p [p.test]","Output":"p.go:1: undefined: x\n"}`,
			`{"Action":"build-fail","ImportPath":"p [p.test]"}`,
			`{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}`,
			`{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`,
		}, "0 passed, 1 failed, 0 skipped", "undefined: x"},
		{"panics in the middle", []string{
			`{"Action":"pass","Package":"p","Test":"A"}`,
			`{"Action":"run","Package":"p","Test":"B"}`,
			`{"Action":"output","Package":"p","Test":"B","Output":"panic: boom\n"}`,
			`{"Action":"fail","Package":"p"}`,
		}, "1 passed, 1 failed, 0 skipped", "panic: boom"},
		{"all pass and the package fails", []string{
			`{"Action":"pass","Package":"p","Test":"A"}`,
			`{"Action":"output","Package":"p","Output":"goroutine leaked\n"}`,
			`{"Action":"fail","Package":"p"}`,
		}, "1 passed, 1 failed, 0 skipped", "goroutine leaked"},
		{"cut off", []string{
			`{"Action":"pass","Package":"p","Test":"A"}`,
		}, "1 passed, 1 failed, 0 skipped", ""},
		{"no test files", []string{
			`{"Action":"output","Package":"p","Output":"?   p [no test files]\n"}`,
			`{"Action":"skip","Package":"p"}`,
		}, "0 passed, 0 failed, 0 skipped", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			tally, err := summarise(lines(tt.events...), &out)
			if err != nil {
				t.Fatal(err)
			}
			tally.print(&out)
			got := strings.Split(strings.TrimSpace(out.String()), "\n")
			if last := got[len(got)-1]; last != tt.want {
				t.Errorf("last line %q, want %q", last, tt.want)
			}
			if !strings.Contains(out.String(), tt.shows) {
				t.Errorf("output lacks %q:\n%s", tt.shows, out.String())
			}
		})
	}
}
