package invite

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// TestRefusalsDoNotFillTheLog: of a thousand refusals in a moment a few are
// lines in the log; later it says how many there were.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		h := Handler(peer.PrivateKey{}, nil, slog.New(slog.NewTextHandler(&log, nil)))
		post := func() {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, Path, nil))
		}
		for range 1000 {
			post()
		}
		if n := strings.Count(log.String(), "\n"); n != logLines {
			t.Errorf("%d lines, want %d", n, logLines)
		}
		time.Sleep(logFor)
		post()
		if !strings.Contains(log.String(), "times=980") {
			t.Errorf("the log does not say how many were left out: %s", log.String())
		}
	})
}
