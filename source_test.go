package warren_test

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// How the source is kept. What breaks a rule for a reason is named here with
// the reason.

// root is everything that may lie in the root folder.
var root = strings.Fields(`.ci .git .gitignore CONTRIBUTING.md LICENSE Makefile README.md SECURITY.md
	acl bench cmd deps_test.go source_test.go docs go.mod go.sum hub images netstack peer services spoke
	bin dist .run .cache`)

// The size limits, in lines, of source that is not a test. Where one is broken
// for a reason, the reason stands here; nothing excuses a file above hardFile.
const (
	maxFile  = 400
	hardFile = 450
	maxFunc  = 60
)

var (
	longFiles = map[string]string{}
	longFuncs = map[string]string{
		"acl.String": "a sentence for each reason, in one place",
	}
)

// skips names the test files that may skip a test, and why.
var skips = map[string]string{
	"hub/confine/foreign_amd64_test.go": "a kernel without 32-bit system calls has none to refuse",
	"cmd/hub/e2e/mesh_test.go":          "a kernel may forbid network namespaces to an ordinary user",
}

// states names package-level variables that start empty or are called into
// being, and why they are no state.
var states = map[string]string{}

func TestRootFolder(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(root, e.Name()) {
			t.Errorf("%s has no place in the root folder", e.Name())
		}
	}
}

func TestFormatted(t *testing.T) {
	for _, s := range sources(t) {
		if want, err := format.Source(s.text); err != nil || !bytes.Equal(want, s.text) {
			t.Errorf("%s is not formatted (gofmt -w %s): %v", s.path, s.path, err)
		}
	}
}

func TestOneDocPerPackage(t *testing.T) {
	docs := make(map[string]int)
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		docs[s.pkg] += 0
		if s.file.Doc != nil {
			docs[s.pkg]++
		}
	}
	for pkg, n := range docs {
		if n != 1 {
			t.Errorf("package %s has %d package comments; it needs exactly one", pkg, n)
		}
	}
}

func TestSizes(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		n := bytes.Count(s.text, []byte("\n"))
		if reason := longFiles[s.path]; n > hardFile || n > maxFile && reason == "" {
			t.Errorf("%s has %d lines, the most is %d: split it by noun", s.path, n, maxFile)
		}
		for _, d := range s.file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n, at := s.lines(fn); n > maxFunc && longFuncs[s.pkg+"."+fn.Name.Name] == "" {
				t.Errorf("%s: %s has %d lines, the most is %d", at, fn.Name.Name, n, maxFunc)
			}
		}
	}
}

// leftOpen finds what says of itself that it is not finished.
var leftOpen = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b|not ` + `implemented`)

// TestNoShortcuts finds what only reads as if it were finished: exits below
// cmd, init functions, tests that leave themselves out, work left for later.
func TestNoShortcuts(t *testing.T) {
	for _, s := range sources(t) {
		mayExit := s.test || strings.HasPrefix(s.pkg, "cmd/") || strings.HasPrefix(s.pkg, ".ci/")
		ast.Inspect(s.file, func(n ast.Node) bool {
			if fn, ok := n.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: func init runs behind everybody's back", s.fset.Position(n.Pos()))
			}
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			on, _ := sel.X.(*ast.Ident)
			name := sel.Sel.Name
			switch {
			case on == nil || mayExit:
			case on.Name == "os" && name == "Exit", on.Name == "log" && (strings.HasPrefix(name, "Fatal") || strings.HasPrefix(name, "Panic")):
				t.Errorf("%s: only cmd ends the process; return an error", s.fset.Position(n.Pos()))
			}
			if s.test && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, name) && skips[s.path] == "" {
				t.Errorf("%s: a test skips itself without a reason in source_test.go", s.fset.Position(n.Pos()))
			}
			return true
		})
		if at := leftOpen.FindIndex(s.text); at != nil {
			t.Errorf("%s: left open: %s", s.path, s.text[at[0]:at[1]])
		}
	}
}

func TestReadmeBegins(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	screen := strings.SplitN(string(text), "\n", 61)
	for _, command := range []string{"make run", "make test"} {
		found := slices.ContainsFunc(screen[:min(60, len(screen))], func(l string) bool { return strings.HasPrefix(l, command) })
		if !found {
			t.Errorf("the first screen of README.md lacks a line that begins %q", command)
		}
	}
}

// testNames finds the names of tests in prose.
var testNames = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`")

// TestPromisesHaveTests keeps SECURITY.md from naming a test that is not there.
func TestPromisesHaveTests(t *testing.T) {
	exist := make(map[string]bool)
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && s.test && fn.Recv == nil {
				exist[fn.Name.Name] = true
			}
		}
	}
	text, err := os.ReadFile("SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	named := testNames.FindAllSubmatch(text, -1)
	if len(named) == 0 {
		t.Error("SECURITY.md names no test at all")
	}
	for _, m := range named {
		if !exist[string(m[1])] {
			t.Errorf("SECURITY.md names %s, which does not exist", m[1])
		}
	}
}

// TestNoPackageState finds package-level variables that are written after the
// start, or whose kind is state: what is not a plain value built from literals.
func TestNoPackageState(t *testing.T) {
	byPackage := make(map[string][]source)
	for _, s := range sources(t) {
		if !s.test {
			byPackage[s.pkg] = append(byPackage[s.pkg], s)
		}
	}
	for pkg, files := range byPackage {
		vars := packageVars(files)
		for name, v := range vars {
			if states[pkg+"."+name] == "" && !plain(v.spec, v.value) && !(name == "version" && strings.HasPrefix(pkg, "cmd/")) {
				t.Errorf("%s: package variable %s is state, or may be: make it a field", v.at, name)
			}
		}
		for _, s := range files {
			for _, w := range writes(s.file) {
				v, ok := vars[w.Name]
				if local := w.Obj != nil && w.Obj.Decl != nil && w.Obj.Decl != any(v.spec); ok && !local {
					t.Errorf("%s: %s is a package variable and is written here", s.fset.Position(w.Pos()), w.Name)
				}
			}
		}
	}
}

type packageVar struct {
	spec  *ast.ValueSpec
	value ast.Expr // nil if it starts as the zero value
	at    string
}

func packageVars(files []source) map[string]packageVar {
	vars := make(map[string]packageVar)
	for _, s := range files {
		for _, d := range s.file.Decls {
			gen, ok := d.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR {
				continue
			}
			for _, spec := range gen.Specs {
				spec := spec.(*ast.ValueSpec)
				for i, name := range spec.Names {
					v := packageVar{spec: spec, at: s.fset.Position(name.Pos()).String()}
					if i < len(spec.Values) {
						v.value = spec.Values[i]
					}
					if name.Name != "_" {
						vars[name.Name] = v
					}
				}
			}
		}
	}
	return vars
}

// constructors are calls whose result does not change afterwards.
var constructors = regexp.MustCompile(`^(errors\.New|fmt\.Errorf|regexp\.MustCompile|netip\.(Must|PrefixFrom|AddrFrom|IPv6|IPv4).*|` +
	`template\.Must|sync\.Once(Func|Value|Values)|bytes\.Repeat|big\.NewInt|strings\..*|` +
	`base(32|64)\..*|math\..*|time\.Unix|slices\..*|\[\]byte|[a-z][A-Za-z0-9]*)$`)

// plain reports whether a variable starts as a value that nobody means to
// change: literals, and calls to constructors.
func plain(spec *ast.ValueSpec, value ast.Expr) bool {
	switch v := value.(type) {
	case nil:
		kind := typeName(spec.Type)
		return kind == "embed.FS" // filled by the compiler
	case *ast.CallExpr:
		return constructors.MatchString(typeName(v.Fun))
	case *ast.UnaryExpr:
		return v.Op != token.AND
	case *ast.FuncLit:
		return false
	}
	return true
}

func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return typeName(e.X) + "." + e.Sel.Name
	case *ast.ArrayType:
		return "[]" + typeName(e.Elt)
	case *ast.CallExpr:
		return typeName(e.Fun)
	}
	return ""
}

// writes returns the identifiers at the root of everything that file assigns
// to, increments, takes the address of, or deletes from.
func writes(file *ast.File) []*ast.Ident {
	var found []*ast.Ident
	add := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.Ident:
				found = append(found, x)
				return
			case *ast.IndexExpr:
				e = x.X
			case *ast.SelectorExpr:
				e = x.X
			case *ast.StarExpr:
				e = x.X
			case *ast.ParenExpr:
				e = x.X
			default:
				return
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, l := range n.Lhs {
					add(l)
				}
			}
		case *ast.IncDecStmt:
			add(n.X)
		case *ast.UnaryExpr:
			if n.Op == token.AND {
				add(n.X)
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "delete" || f.Name == "clear") && len(n.Args) > 0 {
				add(n.Args[0])
			}
		}
		return true
	})
	return found
}
