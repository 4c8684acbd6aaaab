package router

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// answer turns what a handler returned into what the caller is told.
func (r *Router) answer(ctx context.Context, rt Route, err error) error {
	var why *services.Refusal
	switch {
	case errors.As(err, &why):
	case errors.As(context.Cause(ctx), &why):
		// The handler failed because its caller may not go on.
	case errors.Is(err, account.ErrNotFound):
		// One sentence for all: what there is elsewhere is nobody's business.
		why = &services.Refusal{Status: http.StatusNotFound, Detail: "Not found"}
	case errors.Is(err, account.ErrExists):
		why = &services.Refusal{Status: http.StatusConflict, Detail: "It exists already; choose another name."}
	case errors.Is(err, account.ErrConflict):
		why = &services.Refusal{Status: http.StatusConflict, Detail: "It was changed in the meantime; read it again."}
	case errors.Is(err, account.ErrInvalid):
		why = &services.Refusal{Status: http.StatusUnprocessableEntity, Detail: short(err.Error())}
	case ctx.Err() != nil:
		why = &services.Refusal{Status: http.StatusServiceUnavailable, Detail: "The request ended before its answer; try again."}
	default:
		r.cfg.Logger.Error("handler failed", "service", r.cfg.Service, "route", rt.Name(), "error", err)
		why = &services.Refusal{Status: http.StatusInternalServerError, Detail: "Something went wrong here; the admin finds it in the log."}
	}
	return &refused{why, rt.Shape}
}

// short keeps an error that quotes its input from filling an answer.
func short(s string) string {
	const most = 300
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// refused is a refusal that huma can write.
type refused struct {
	why   *services.Refusal
	shape Shape
}

func (e *refused) Error() string  { return e.why.Detail }
func (e *refused) GetStatus() int { return e.why.Status }

func (e *refused) GetHeaders() http.Header {
	h := make(http.Header)
	services.SetRefusal(h, e.why)
	return h
}

func (e *refused) ContentType(string) string {
	contentType, _ := e.fault().render(e.shape)
	return contentType
}

func (e *refused) MarshalJSON() ([]byte, error) {
	_, body := e.fault().render(e.shape)
	return json.Marshal(body)
}

func (e *refused) fault() *fault { return &fault{status: e.why.Status, detail: e.why.Detail} }

// fault is an input that is refused, or any other error answer.
type fault struct {
	status int
	detail string
	faults []services.Fault
}

func badInput(status int, location, message string) *fault {
	return &fault{status, sentence(status), []services.Fault{{Location: location, Message: message}}}
}

// sentence is what is said about an input that is refused.
func sentence(status int) string {
	switch status {
	case http.StatusRequestEntityTooLarge:
		return "The request is larger than this route takes."
	case http.StatusUnsupportedMediaType:
		return "The body is of another type than this route takes; send application/json unless it says otherwise."
	case http.StatusRequestTimeout:
		return "The request arrived too slowly."
	}
	return "The request is not valid."
}

// jarvisFault is one entry of Jarvis' 422.
type jarvisFault struct {
	Loc  []any  `json:"loc"`
	Msg  string `json:"msg"`
	Type string `json:"type"`
}

// render gives an error in a shape. In Jarvis' there is one status for all input
// that is not valid.
func (f *fault) render(shape Shape) (contentType string, body any) {
	if shape != Jarvis {
		return services.ProblemType, services.Problem{
			Type: "about:blank", Title: http.StatusText(f.status), Status: f.status, Detail: f.detail, Errors: f.faults,
		}
	}
	if len(f.faults) == 0 || f.status != http.StatusBadRequest && f.status != http.StatusUnprocessableEntity {
		return "application/json", map[string]any{"detail": f.detail}
	}
	f.status = http.StatusUnprocessableEntity
	var list []jarvisFault
	for _, e := range f.faults {
		list = append(list, jarvisFault{loc(e.Location), e.Message, kind(e.Message)})
	}
	return "application/json", map[string]any{"detail": list}
}

func (f *fault) write(w http.ResponseWriter, _ *http.Request, rt Route) {
	contentType, body := f.render(rt.Shape)
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(f.status)
	_ = marshal(w, body)
}

// The messages that are ours, whatever huma says.
const (
	msgMissing = "is missing"
	msgUnknown = "is not known here"
	msgTwice   = "comes twice"
	msgJSON    = "is not one JSON value"
	msgNumber  = "has a number in it that does not fit"
)

var required = regexp.MustCompile(`^expected required property (\S+) to be present$`)

// refine drops the value and names a missing or unknown part by where it would
// be.
func refine(e *huma.ErrorDetail) services.Fault {
	f := services.Fault{Location: e.Location, Message: e.Message}
	switch m := required.FindStringSubmatch(e.Message); {
	case m != nil:
		f.Location, f.Message = e.Location+"."+m[1], msgMissing
	case strings.HasPrefix(e.Message, "required ") && strings.HasSuffix(e.Message, " parameter is missing"), e.Message == "request body is required":
		f.Message = msgMissing
	case e.Message == "unexpected property", e.Message == "unknown query parameter":
		f.Message = msgUnknown
	case strings.HasPrefix(e.Message, "json: "):
		// encoding/json repeats the number, and says how the handler is written.
		f.Message = msgNumber
	}
	f.Location, f.Message = short(f.Location), short(f.Message)
	return f
}

// kind is the type that Jarvis' clients may look at.
func kind(message string) string {
	switch message {
	case msgMissing:
		return "missing"
	case msgUnknown, msgTwice:
		return "extra_forbidden"
	case msgJSON:
		return "json_invalid"
	}
	return "value_error"
}

var index = regexp.MustCompile(`^([^\[\]]*)((?:\[\d+\])+)$`)

// loc turns body.items[3].name into body, items, 3, name.
func loc(location string) []any {
	var out []any
	for part := range strings.SplitSeq(location, ".") {
		m := index.FindStringSubmatch(part)
		if m == nil {
			out = append(out, part)
			continue
		}
		if m[1] != "" {
			out = append(out, m[1])
		}
		for n := range strings.SplitSeq(strings.Trim(m[2], "[]"), "][") {
			i, err := strconv.Atoi(n)
			if err != nil {
				i = -1 // more digits than an int has
			}
			out = append(out, i)
		}
	}
	return out
}
