package hub

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/store"
)

// minPassphrase is the least length of a backup's passphrase.
const minPassphrase = 8

// backup streams one encrypted file. The passphrase came over the socket.
func (s *Server) backup(w http.ResponseWriter, r *http.Request) {
	req, ok := s.backupRequest(w, r, "backup", "hub.backup")
	if !ok {
		return
	}
	if err := s.store.Backup(r.Context(), w, []byte(req.Passphrase)); err != nil {
		s.log.Error("writing backup", "err", err)
		// The stream ends without its last, authenticated chunk, so a
		// restore refuses it; the asker sees the connection break.
		panic(http.ErrAbortHandler)
	}
}

// backupPeople streams the keys of people, which a backup is without: that file
// is the one that the hub opens again, to take out whoever is erased. Where it
// will be is noted first, so that it is never forgotten.
func (s *Server) backupPeople(w http.ResponseWriter, r *http.Request) {
	req, ok := s.backupRequest(w, r, "backup/people", "hub.backup.people")
	if !ok {
		return
	}
	err := s.store.Keep(r.Context(), func(tx *store.Tx) error { return tx.RememberPeopleFile(req.People) })
	if err != nil {
		s.fail(w, "backup/people", err)
		return
	}
	if err := s.store.BackupPeople(r.Context(), w, []byte(req.Passphrase)); err != nil {
		s.log.Error("writing people's keys", "err", err)
		panic(http.ErrAbortHandler)
	}
}

// backupRequest reads a request for a backup, and records it.
func (s *Server) backupRequest(w http.ResponseWriter, r *http.Request, command, action string) (req control.BackupRequest, ok bool) {
	who, ok := decode(w, r, &req)
	if !ok {
		return req, false
	}
	if len(req.Passphrase) < minPassphrase {
		answer(w, http.StatusConflict, &control.Error{Message: "the passphrase is shorter than 8 characters"})
		return req, false
	}
	if err := s.store.Do(r.Context(), audit.Event{Actor: who, Action: action}, func(*store.Tx) error { return nil }); err != nil {
		s.fail(w, command, err)
		return req, false
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	return req, true
}

// backupDestroyed notes that a file with people's keys is no more.
func (s *Server) backupDestroyed(ctx context.Context, actor, path string) (struct{}, error) {
	none := refused("", "the hub knows of no backup at %.300q", path)
	if !filepath.IsAbs(path) {
		return struct{}{}, none
	}
	err := s.store.Do(ctx, audit.Event{Actor: actor, Action: "hub.backup.destroyed"}, func(tx *store.Tx) error { return tx.ForgetPeopleFile(path) })
	if errors.Is(err, store.ErrNotFound) {
		return struct{}{}, none
	}
	if err == nil {
		_, err = s.forgetInBackups(ctx, 0)
	}
	return struct{}{}, err
}
