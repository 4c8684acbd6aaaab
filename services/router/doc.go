// Package router is one service's table of routes.
//
// Every route says, in the same breath, who may call it: a Route without a
// Requirement lets nobody in and is reported by Check, and so is a route about
// people's data that does not say, in Tenant, what keeps households apart. The
// table is walked by tests (see routertest), and from it comes the OpenAPI
// document at /openapi.json: what is not in the code is not in the document,
// and the other way round.
//
// Handle takes a function over structs, which huma fills and checks: fields
// that were not asked for, keys that come twice, data after the value, another
// content type, a name in other letters than its own are refused before the
// function runs. Raw takes a function over HTTP, for pages and streams.
//
// What a handler returns as an error is what the caller is told: a
// *services.Refusal in its own words, the errors of package account with their
// statuses, and anything else as a 500 that says nothing, and is logged.
//
// Refusals come as problems (RFC 9457), or as {"detail": …} on the routes that
// Jarvis' clients know; both hold the same sentence under the same name.
package router
