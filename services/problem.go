package services

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// ProblemType is the media type of a problem (RFC 9457).
const ProblemType = "application/problem+json"

// Problem is an error answer of Warren's own routes (RFC 9457). Its type is
// always about:blank: title says what the status means, detail says what to do.
type Problem struct {
	Type   string `json:"type" doc:"Always about:blank."`
	Title  string `json:"title" doc:"What the status means."`
	Status int    `json:"status" doc:"The HTTP status."`
	Detail string `json:"detail" doc:"One sentence for a person."`
	// Errors say what is wrong with which part of the input.
	Errors []Fault `json:"errors,omitempty" doc:"What is wrong with the input, part by part."`
}

// Fault is one thing that is wrong with an input. It never repeats the value:
// that may be a password.
type Fault struct {
	Location string `json:"location" doc:"Where: body.name, query.limit, path.id."`
	Message  string `json:"message" doc:"What."`
}

// WriteProblem answers with why as a problem. It is a Refuser.
func WriteProblem(w http.ResponseWriter, _ *http.Request, why *Refusal) {
	writeRefusal(w, why, ProblemType, Problem{
		Type: "about:blank", Title: http.StatusText(why.Status), Status: why.Status, Detail: why.Detail,
	})
}

// WriteDetail answers with why in the shape that Jarvis' clients read,
// {"detail": "…"}. It is a Refuser.
func WriteDetail(w http.ResponseWriter, _ *http.Request, why *Refusal) {
	writeRefusal(w, why, "application/json", struct {
		Detail string `json:"detail"`
	}{why.Detail})
}

func writeRefusal(w http.ResponseWriter, why *Refusal, contentType string, body any) {
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", contentType)
	SetRefusal(h, why)
	SecurityHeaders(h)
	w.WriteHeader(why.Status)
	// What is written here is strings and numbers: it marshals.
	b, _ := json.Marshal(body)
	_, _ = w.Write(append(b, '\n'))
}

// SetRefusal sets the headers that go with a refusal.
func SetRefusal(h http.Header, why *Refusal) {
	if why.Challenge != "" {
		h.Set("WWW-Authenticate", why.Challenge)
	}
	if why.Retry > 0 {
		h.Set("Retry-After", seconds(why.Retry))
	}
}

// seconds rounds up: whoever comes back then is not too early.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((max(d, 0)+time.Second-1)/time.Second), 10)
}
