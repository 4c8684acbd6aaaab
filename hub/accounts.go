package hub

import "net/http"

// accounts are the services about people.
type accounts struct{}

func (a *accounts) handler(string) http.Handler { return http.NotFoundHandler() }
