// Package warren_test holds what is true of Warren as a whole: who may import
// whom, where cgo and os.Exit may be, and how the source is kept.
package warren_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/warrenmesh/warren"

// graph is the import graph. "a, b < c" says that c may import a and b, and
// whatever those may import. A package that is not named here may not exist.
//
// DO NOT CHANGE THIS DATA TO FIX A BUILD. A new arrow is a decision about who
// must trust whom, and belongs in a review of its own.
const graph = `
	# The shared noun knows nobody; the policy is pure; packets are below everything.
	NONE < peer, hub/audit, hub/confine, spoke/proxy, cmd/internal/cli, cmd/hub/e2e
	peer < peer/invite, netstack/udp, services, spoke/vault
	peer < acl < netstack
	netstack/udp < netstack
	netstack/udp < netstack/udp/udptest

	# People, and what acts for them, are a noun that the store and the services share.
	peer < peer/account < services, hub/store

	# A service knows what a service is and who is calling, and nothing else:
	# not the hub, not the packets, not its neighbours. Routes of people's data go
	# through one router; sealed settings are read at both ends.
	services < services/*
	services < services/router < services/auth, services/auth/oauth, services/settings, services/webhook
	services/auth/token < services/auth < services/auth/oauth
	services/router < services/router/routertest
	services/settings/k2 < services/settings, spoke

	# The spoke knows nothing of the hub but what comes through the tunnel.
	netstack, peer/invite, services/sync, spoke/vault, spoke/proxy < spoke < cmd/spoke

	# The hub puts it all together; nobody outside hub and cmd/hub sees inside it.
	peer, hub/audit < hub/store < hub/store/storetest
	acl, hub/store < hub/control
	peer < hub/certs
	netstack, peer/invite, services/*, hub/store, hub/control, hub/confine, hub/certs < hub < cmd/hub
	cmd/internal/cli < cmd/hub, cmd/spoke

	# A mesh in a test, for tests.
	hub, spoke < hub/hubtest
`

// forTests names the packages that are imported by tests only: those of the
// packages that may see packets, which may then also name what these give them.
var forTests = []string{"hub/hubtest", "hub/store/storetest", "netstack/udp/udptest"}

var seePackets = regexp.MustCompile(`^(netstack|hub|spoke|cmd)(/|$)`)

// keepAccounts are the services whose tests run on the real store.
var keepAccounts = regexp.MustCompile(`^services/(auth|settings|webhook|router|limit)(/|$)`)

// unreachable is what a package must not reach, at any distance.
var unreachable = map[string][]string{
	"peer":        {"net/http", "database/sql", "gvisor.dev/", "golang.zx2c4.com/", "C"},
	"peer/invite": {"database/sql", "gvisor.dev/", "golang.zx2c4.com/", "C"},
	"acl":         {"net/http", "database/sql", "gvisor.dev/", "golang.zx2c4.com/", "os/exec", "C"},
	"netstack":    {"net/http", "database/sql", "C"},
	"services":    {"database/sql", "gvisor.dev/", "golang.zx2c4.com/", "C"},
}

// mayUseC names the packages that may contain cgo or import a module that does.
var mayUseC = []string{"hub/store", "spoke/vault"}

// source is one Go file of the module.
type source struct {
	path string // slash-separated, relative to the root
	pkg  string // its folder, "." for the root
	test bool
	text []byte
	file *ast.File
	fset *token.FileSet
}

// sources parses every Go file of the module, whatever its build constraints.
// The tools in .ci belong to it; bench is a module of its own.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch name := d.Name(); {
			case p == "bench", name == "testdata", name != "." && name != ".ci" && name[0] == '.':
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(fset, p, text, parser.ParseComments)
		if err != nil {
			return err
		}
		p = filepath.ToSlash(p)
		all = append(all, source{p, path.Dir(p), strings.HasSuffix(p, "_test.go"), text, file, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (s *source) imports() []string {
	var list []string
	for _, spec := range s.file.Imports {
		list = append(list, strings.Trim(spec.Path.Value, `"`))
	}
	return list
}

// lines returns how many lines n has, and where it begins.
func (s *source) lines(n ast.Node) (int, token.Position) {
	from, to := s.fset.Position(n.Pos()), s.fset.Position(n.End())
	return to.Line - from.Line + 1, from
}

// mayImport is the transitive reading of graph.
func mayImport(t *testing.T, packages []string) map[string]map[string]bool {
	t.Helper()
	direct := make(map[string][]string)
	expand := func(list string) (names []string) {
		for name := range strings.SplitSeq(list, ",") {
			name = strings.TrimSpace(name)
			if stem, wild := strings.CutSuffix(name, "*"); wild {
				for _, p := range packages {
					if strings.HasPrefix(p, stem) {
						names = append(names, p)
					}
				}
			} else if name != "NONE" {
				names = append(names, name)
			}
		}
		return names
	}
	for line := range strings.Lines(graph) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
		sides := strings.Split(line, "<")
		for i := range len(sides) - 1 {
			for _, right := range expand(sides[i+1]) {
				direct[right] = append(direct[right], expand(sides[i])...)
			}
		}
	}
	all := make(map[string]map[string]bool)
	var visit func(of, at string)
	visit = func(of, at string) {
		for _, next := range direct[at] {
			if next == of {
				t.Fatalf("the graph has a circle through %s", of)
			}
			if !all[of][next] {
				all[of][next] = true
				visit(of, next)
			}
		}
	}
	for name := range direct {
		all[name] = make(map[string]bool)
		visit(name, name)
	}
	return all
}

func TestImportGraph(t *testing.T) {
	all := sources(t)
	var packages []string
	for _, s := range all {
		if s.pkg != "." && !strings.HasPrefix(s.pkg, ".ci/") && !slices.Contains(packages, s.pkg) {
			packages = append(packages, s.pkg)
		}
	}
	allowed := mayImport(t, packages)
	inTest := make(map[string]bool)
	for _, p := range forTests {
		inTest[p] = true
		maps.Copy(inTest, allowed[p])
	}
	for _, p := range packages {
		if allowed[p] == nil {
			t.Errorf("package %s is not in the graph", p)
		}
	}
	for _, s := range all {
		for _, imported := range s.imports() {
			to, ours := strings.CutPrefix(imported, module+"/")
			if !ours || allowed[s.pkg] == nil || allowed[s.pkg][to] {
				continue
			}
			if s.test && (to == s.pkg || seePackets.MatchString(s.pkg) && inTest[to]) {
				continue
			}
			if s.test && keepAccounts.MatchString(s.pkg) && (to == "hub/store/storetest" || to == "hub/store" || to == "services/router/routertest") {
				continue
			}
			t.Errorf("%s may not import %s", s.path, to)
		}
	}
}

// listed is what `go list` says of a package.
type listed struct {
	ImportPath string
	Standard   bool
	CgoFiles   []string
	Imports    []string
	Deps       []string
}

func goList(t *testing.T) map[string]listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Standard,CgoFiles,Imports,Deps", "./...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := make(map[string]listed)
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
	return all
}

func TestUnreachable(t *testing.T) {
	all := goList(t)
	for name, p := range all {
		from, ours := strings.CutPrefix(name, module+"/")
		if !ours {
			continue
		}
		banned := unreachable[from]
		if strings.HasPrefix(from, "services/") {
			banned = unreachable["services"]
		}
		for _, dep := range p.Deps {
			for _, ban := range banned {
				switch {
				case ban == "C" && !all[dep].Standard && len(all[dep].CgoFiles) > 0,
					dep == ban, strings.HasSuffix(ban, "/") && strings.HasPrefix(dep, ban):
					t.Errorf("%s reaches %s (%s is banned there)", from, dep, ban)
				}
			}
		}
		for _, imported := range p.Imports {
			usesC := imported == "C" || !all[imported].Standard && len(all[imported].CgoFiles) > 0 && !strings.HasPrefix(imported, module)
			if usesC && !slices.Contains(mayUseC, from) {
				t.Errorf("%s imports %s: cgo belongs in %v only", from, imported, mayUseC)
			}
		}
	}
}
