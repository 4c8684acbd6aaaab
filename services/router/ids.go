package router

import (
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// IDs names what a caller of a route can put another household's id into:
// every path parameter as "path.NAME", and what looks like an id in the query
// and in the body as "query.NAME" and "body.NAME.NAME", inside of arrays as well.
// What a Raw handler reads besides its path is not known here.
func (r *Router) IDs(rt Route) []string {
	op := r.ops[rt.Name()]
	if op == nil {
		return nil
	}
	var ids []string
	for _, p := range op.Parameters {
		if p.In == "path" || p.In == "query" && looksLikeID(p.Name) {
			ids = append(ids, p.In+"."+p.Name)
		}
	}
	if op.RequestBody != nil {
		for _, media := range op.RequestBody.Content {
			ids = append(ids, r.idsIn(media.Schema, "body", 0)...)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func (r *Router) idsIn(schema *huma.Schema, at string, depth int) []string {
	if schema != nil && schema.Ref != "" {
		schema = r.api.OpenAPI().Components.Schemas.SchemaFromRef(schema.Ref)
	}
	if schema == nil || depth > 4 {
		return nil
	}
	if schema.Type == huma.TypeArray {
		return r.idsIn(schema.Items, at, depth+1)
	}
	var ids []string
	for name, field := range schema.Properties {
		if looksLikeID(name) {
			ids = append(ids, at+"."+name)
		}
		ids = append(ids, r.idsIn(field, at+"."+name, depth+1)...)
	}
	return ids
}

// looksLikeID knows an id by how Warren and Jarvis name theirs.
func looksLikeID(name string) bool {
	switch name {
	case "id", "ids", "household", "node", "user":
		return true
	}
	return strings.HasSuffix(name, "_id") || strings.HasSuffix(name, "_ids")
}
