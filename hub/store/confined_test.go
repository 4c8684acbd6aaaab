package store_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/hub/store"
)

// TestT02_QueriesNameTheirHousehold reads the source of everything that runs
// inside a household: no query goes around the methods that give the household,
// and each constant that is a query has one of the forms that those let pass.
func TestT02_QueriesNameTheirHousehold(t *testing.T) {
	files, err := filepath.Glob("scoped*.go")
	if err != nil {
		t.Fatal(err)
	}
	queries, calls := 0, 0
	set := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			gate := isGate(d)
			ast.Inspect(d, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.BasicLit:
					text, err := strconv.Unquote(n.Value)
					if n.Kind != token.STRING || err != nil || !isQuery(text) {
						return true
					}
					queries++
					if err := store.Confined(text); err != nil {
						t.Errorf("%v: %v", set.Position(n.Pos()), err)
					}
				case *ast.CallExpr:
					if runsQuery(n) {
						calls++
						if onTx(n) && !gate {
							t.Errorf("%v: the query goes around the household", set.Position(n.Pos()))
						}
					}
				}
				return true
			})
		}
	}
	if queries < 25 || calls < 25 {
		t.Errorf("only %d queries in %d calls were looked at", queries, calls)
	}
}

// isGate reports whether a declaration is one of the few methods that hand a
// query to the transaction, all in scoped.go.
func isGate(d ast.Decl) bool {
	f, ok := d.(*ast.FuncDecl)
	if !ok || f.Recv == nil {
		return false
	}
	switch f.Name.Name {
	case "one", "each", "change":
		return true
	}
	return false
}

// isQuery leaves out selectNodes' like, which other files begin.
func isQuery(text string) bool {
	for _, verb := range []string{"SELECT ", "INSERT ", "UPDATE ", "DELETE "} {
		if strings.HasPrefix(text, verb) {
			return true
		}
	}
	return false
}

func runsQuery(c *ast.CallExpr) bool {
	sel, ok := c.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	switch sel.Sel.Name {
	case "one", "each", "exec", "change", "count", "must", "once", "there", "insert", "set", "nodes", "memberships", "ledger",
		"ExecContext", "QueryContext", "QueryRowContext":
		return true
	}
	return false
}

// onTx reports whether a call is on anything but a scoped's own methods.
func onTx(c *ast.CallExpr) bool {
	on, ok := c.Fun.(*ast.SelectorExpr).X.(*ast.Ident)
	return !ok || on.Name != "sc"
}

// TestT02_LoopholesAreRefused: what asks for the household in words and reaches
// further is no query inside a household.
func TestT02_LoopholesAreRefused(t *testing.T) {
	for _, good := range []string{
		`SELECT id FROM blobs WHERE household = $1`,
		`SELECT COALESCE(MAX(seq), 0) FROM deliveries WHERE household = $1 AND hook = $2`,
		`DELETE FROM hooks WHERE household = $1 AND name = $2`,
		`UPDATE blobs SET household = $1, state = $2 WHERE household = $1 AND id = $3`,
		`INSERT INTO hooks (household, name) VALUES ($1, $2) ON CONFLICT DO NOTHING`,
	} {
		if err := store.Confined(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		``, `SELECT id FROM blobs`, `SELECT id FROM blobs WHERE id = $2`,
		`SELECT id FROM blobs WHERE household = $10`, `SELECT id FROM blobs WHERE household = $2`,
		`SELECT id FROM blobs WHERE household = $1 OR 1 = 1`, `SELECT id FROM blobs WHERE household = $1 or true`,
		`SELECT id FROM blobs WHERE household = $1 UNION ALL SELECT id FROM blobs`,
		`SELECT id FROM blobs JOIN users ON true WHERE household = $1`,
		`SELECT id FROM blobs, users WHERE household = $1`,
		`SELECT id FROM blobs WHERE household = $1; DELETE FROM blobs`,
		`SELECT id FROM blobs WHERE household = $1 AND id IN (SELECT id FROM blobs)`,
		`SELECT id FROM blobs -- WHERE household = $1`, `SELECT (SELECT email FROM users) FROM blobs WHERE household = $1`,
		`DELETE FROM blobs`, `UPDATE blobs SET state = $2 WHERE household = $1`, `UPDATE blobs SET household = $2 WHERE household = $1`,
		`UPDATE blobs SET household = $1, state = $2`, `UPDATE blobs SET household = $1, state = (SELECT 1) WHERE household = $1`,
		`INSERT INTO hooks (name, household) VALUES ($1, $2) ON CONFLICT DO NOTHING`,
		`INSERT INTO hooks (household, name) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET name = ''`,
		`INSERT INTO hooks (household, name) SELECT $1, name FROM hooks`,
		`INSERT INTO hooks (household, name) VALUES ($1, $2), ($3, $4) ON CONFLICT DO NOTHING`,
		`PRAGMA wal_checkpoint`, `SET ROLE warren_system`, `DROP TABLE blobs`,
	} {
		if store.Confined(bad) == nil {
			t.Errorf("%s passes", bad)
		}
	}
}
