package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/warrenmesh/warren/peer/account"
)

// BackupPeopleTo is BackupPeople into a new file, which only its owner can
// read. The store remembers the path, before the file is there, so that
// ForgetInBackups finds it. A file that is there is replaced, whole.
func (s *Store) BackupPeopleTo(ctx context.Context, path string, passphrase []byte) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("writing people's keys: %w", err)
	}
	s.people.Lock()
	defer s.people.Unlock()
	if err := s.Keep(ctx, func(tx *Tx) error { return tx.RememberPeopleFile(path) }); err != nil {
		return fmt.Errorf("writing people's keys: %w", err)
	}
	text, err := s.peopleFile(ctx, passphrase)
	if err == nil {
		err = replaceFile(path, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("writing people's keys: %w", err)
	}
	return nil
}

// RememberPeopleFile notes where a people file is, or is about to be.
func (tx *Tx) RememberPeopleFile(path string) error {
	if path == "" || !filepath.IsAbs(path) {
		return fmt.Errorf("%w: the path of a file with people's keys is absolute", ErrInvalid)
	}
	if err := checkText("path", path); err != nil {
		return err
	}
	return tx.exec("noting a file", `INSERT INTO people_files (path, at) VALUES ($1, $2) ON CONFLICT (path) DO UPDATE SET at = excluded.at`, path, nanos(tx.now))
}

// PeopleFiles lists the paths of people files that are remembered.
func (tx *Tx) PeopleFiles() ([]string, error) {
	var paths []string
	err := tx.each("reading files", `SELECT path FROM people_files ORDER BY path`, nil, func(scan func(...any) error) error {
		var p string
		err := scan(&p)
		paths = append(paths, p)
		return err
	})
	return paths, err
}

// ForgetPeopleFile ends the memory of a path, once the file is destroyed.
func (tx *Tx) ForgetPeopleFile(path string) error {
	return tx.must("forgetting a file", `DELETE FROM people_files WHERE path = $1`, path)
}

// ForgetInBackups takes a person, and everybody else whose erasure is done, out
// of every people file that is remembered. Call it after FinishErasure, and
// when the hub starts, in case it was stopped between the two. Each file is
// replaced as a whole and the old one's keys are overwritten. The paths that
// could not be seen to come back in unreachable: somebody has to find those
// files and run DropFromPeople on them, or destroy them.
func (s *Store) ForgetInBackups(ctx context.Context, u account.UserID) (unreachable []string, err error) {
	s.people.Lock()
	defer s.people.Unlock()
	var paths []string
	var people []account.UserID
	if err := s.View(ctx, func(tx *Tx) error {
		var err1, err2 error
		paths, err1 = tx.PeopleFiles()
		people, err2 = tx.ledger(`SELECT user_id FROM erased WHERE done > 0`)
		return errors.Join(err1, err2)
	}); err != nil {
		return nil, fmt.Errorf("forgetting in backups: %w", err)
	}
	if u > 0 {
		people = append(people, u)
	}
	for _, path := range paths {
		if err := forgetIn(path, people); err != nil {
			s.log.Warn("an erased person's key may be left in a backup", "file", path, "error", err)
			unreachable = append(unreachable, path)
		}
	}
	return unreachable, nil
}

// forgetIn takes people out of one file.
func forgetIn(path string, people []account.UserID) error {
	// A rename would replace the link, not what it leads to.
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	old, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer old.Close()
	info, err := old.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: it is not a regular file", ErrInvalid)
	}
	text, err := readPeopleText(old)
	if err != nil {
		return err
	}
	fresh, at := dropPeople(text, people)
	if fresh == nil {
		return nil
	}
	if err := replaceFile(path, fresh, info.Mode().Perm()); err != nil {
		return err
	}
	// The file has no name any more; this is for the disk, and for other
	// names that it may have.
	zeros := make([]byte, personSize-8)
	for _, i := range at {
		if _, err := old.WriteAt(zeros, i); err != nil {
			return err
		}
	}
	return old.Sync()
}

// replaceFile puts a file in the place of another: whoever opens the path finds
// the old one or the new one, also after a power failure.
func replaceFile(path string, text []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = bytes.NewReader(text).WriteTo(f)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}
