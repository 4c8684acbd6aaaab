package hub

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/store"
)

// serveControl answers the admin's command line until ctx ends.
func (s *Server) serveControl(ctx context.Context) error {
	server := &http.Server{
		Handler: s.api(), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if cc, ok := c.(*control.Conn); ok {
				return context.WithValue(ctx, uidKey{}, cc.UID)
			}
			return ctx
		},
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		// Commands that are being carried out get the time to say so.
		shut, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if server.Shutdown(shut) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(s.ctl)
	if !stop() {
		<-done
	}
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

type uidKey struct{}

// actor says who is at the other end of the socket, as the kernel knows it.
func actor(r *http.Request) (string, bool) {
	uid, ok := r.Context().Value(uidKey{}).(int)
	return localActor(uid), ok
}

// api routes the commands. Each takes one JSON document and answers one.
func (s *Server) api() http.Handler {
	mux := http.NewServeMux()
	handle(mux, s, "status", func(_ context.Context, _ string, _ struct{}) (control.Status, error) { return s.Status(), nil })
	handle(mux, s, "doctor", func(ctx context.Context, _ string, _ struct{}) ([]control.Check, error) { return s.Doctor(ctx), nil })
	handle(mux, s, "invite", func(ctx context.Context, who string, spec control.PeerSpec) (control.InviteReply, error) {
		code, err := s.Invite(ctx, who, spec)
		if err != nil {
			return control.InviteReply{}, err
		}
		return control.InviteReply{Code: code.Reveal(), Expires: code.Expires, Note: s.unmeant(&spec)}, nil
	})
	handle(mux, s, "phone", s.Phone)
	handle(mux, s, "peers", func(context.Context, string, struct{}) ([]control.PeerInfo, error) { return s.Peers(), nil })
	handle(mux, s, "peer/edit", s.EditPeer)
	handle(mux, s, "services", func(context.Context, string, struct{}) ([]control.ServiceInfo, error) { return s.Services(), nil })
	handle(mux, s, "publish", s.Publish)
	handle(mux, s, "unpublish", s.Unpublish)
	s.policyRoutes(mux)
	s.auditRoutes(mux)
	s.accountRoutes(mux)
	return mux
}

func (s *Server) policyRoutes(mux *http.ServeMux) {
	handle(mux, s, "acl/show", func(context.Context, string, struct{}) (control.PolicyReply, error) {
		p := s.snap.Load().policy
		return control.PolicyReply{Generation: p.Generation, Author: p.Author, At: p.At, Text: string(p.Text), Live: true, ConfirmBy: p.ConfirmBy}, nil
	})
	handle(mux, s, "acl/check", func(_ context.Context, _ string, req control.PolicyRequest) (control.Change, error) {
		_, warnings, err := s.CheckPolicy([]byte(req.Text))
		return control.Change{Warnings: warnings}, err
	})
	handle(mux, s, "acl/diff", func(ctx context.Context, _ string, req control.PolicyRequest) (control.DiffReply, error) {
		return s.DiffPolicy(ctx, []byte(req.Text))
	})
	handle(mux, s, "acl/apply", s.ApplyPolicy)
	handle(mux, s, "acl/confirm", func(ctx context.Context, who string, _ struct{}) (control.PolicyReply, error) {
		generation, err := s.ConfirmPolicy(ctx, who)
		return control.PolicyReply{Generation: generation}, err
	})
	handle(mux, s, "acl/explain", func(_ context.Context, _ string, req control.ExplainRequest) (control.ExplainReply, error) {
		return s.Explain(req)
	})
	handle(mux, s, "acl/history", func(ctx context.Context, _ string, limit int) ([]control.PolicyReply, error) {
		return s.History(ctx, limit)
	})
	handle(mux, s, "acl/rollback", s.Rollback)
}

func (s *Server) auditRoutes(mux *http.ServeMux) {
	type page struct {
		From  uint64 `json:"from"`
		Limit int    `json:"limit"`
	}
	handle(mux, s, "audit", func(ctx context.Context, _ string, p page) (control.AuditReply, error) {
		return s.Audit(ctx, p.From, p.Limit)
	})
	handle(mux, s, "audit/verify", func(ctx context.Context, _ string, checkpoint string) (control.VerifyReply, error) {
		return s.VerifyAudit(ctx, checkpoint)
	})
	mux.HandleFunc("POST /v1/backup", s.backup)
	mux.HandleFunc("POST /v1/backup/people", s.backupPeople)
	handle(mux, s, "backup/destroyed", s.backupDestroyed)
}

// handle decodes a request, calls fn with who is asking, and encodes what
// came of it.
func handle[Req, Reply any](mux *http.ServeMux, s *Server, command string, fn func(context.Context, string, Req) (Reply, error)) {
	mux.HandleFunc("POST /v1/"+command, func(w http.ResponseWriter, r *http.Request) {
		var req Req
		who, ok := decode(w, r, &req)
		if !ok {
			return
		}
		reply, err := fn(r.Context(), who, req)
		if err != nil {
			s.fail(w, command, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(reply)
	})
}

func decode(w http.ResponseWriter, r *http.Request, req any) (who string, ok bool) {
	who, ok = actor(r)
	if !ok {
		answer(w, http.StatusForbidden, &control.Error{Message: "the kernel did not say who is asking"})
		return "", false
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, control.MaxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(req); err != nil && !errors.Is(err, io.EOF) {
		answer(w, http.StatusBadRequest, &control.Error{Message: "the hub does not understand this request", Hint: "the hub and this command are of different versions; update the older one"})
		return "", false
	}
	return who, true
}

// fail tells a person's mistake to the person, and the rest to the log as
// well.
func (s *Server) fail(w http.ResponseWriter, command string, err error) {
	if refusal, ok := errors.AsType[*control.Error](err); ok {
		answer(w, http.StatusConflict, refusal)
		return
	}
	s.log.Error("carrying out a command", "command", command, "err", err)
	answer(w, http.StatusInternalServerError, &control.Error{Message: err.Error(), Hint: "hub doctor says what is wrong and what to do"})
}

func answer(w http.ResponseWriter, status int, e *control.Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(e)
}

// Audit returns a page of the audit log; from 0 means the newest page.
func (s *Server) Audit(ctx context.Context, from uint64, limit int) (control.AuditReply, error) {
	if limit <= 0 || limit > 10000 {
		limit = 50
	}
	var reply control.AuditReply
	err := s.store.View(ctx, func(tx *store.Tx) error {
		if from == 0 {
			head, err := tx.AuditHead()
			if err != nil {
				return err
			}
			from = max(1, head.Count+1-min(head.Count, uint64(limit)))
		}
		for len(reply.Rows) < limit { // the store gives them out in pages
			entries, err := tx.AuditEntries(from, limit-len(reply.Rows))
			if err != nil || len(entries) == 0 {
				return err
			}
			for _, e := range entries {
				reply.Rows = append(reply.Rows, auditRow(e))
				from = e.Index + 1
			}
		}
		return nil
	})
	return reply, err
}

func auditRow(e audit.Entry) control.AuditRow {
	return control.AuditRow{Index: e.Index, Time: e.Time, Actor: e.Actor, Action: e.Action, Target: e.Target,
		Detail: e.Detail, Hash: audit.After(e).String()}
}

// VerifyAudit walks the whole chain. checkpoint is a line that an earlier
// verify printed and somebody kept elsewhere, or "".
func (s *Server) VerifyAudit(ctx context.Context, checkpoint string) (control.VerifyReply, error) {
	var known []audit.Checkpoint
	if checkpoint != "" {
		c, err := audit.ParseCheckpoint(checkpoint)
		if err != nil {
			return control.VerifyReply{}, refused("give the line that hub audit verify printed", "%v", err)
		}
		known = append(known, c)
	}
	n, err := s.store.VerifyAudit(ctx, known...)
	if bad, ok := errors.AsType[*audit.BadEntry](err); ok {
		return control.VerifyReply{Entries: n, Bad: &bad.Index, Why: bad.Error()}, nil
	}
	if err != nil {
		return control.VerifyReply{}, err
	}
	var head audit.Checkpoint
	err = s.store.View(ctx, func(tx *store.Tx) error {
		head, err = tx.AuditHead()
		return err
	})
	return control.VerifyReply{Entries: n, Head: head.String()}, err
}
