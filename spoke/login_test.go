package spoke

import (
	"context"
	"net/http"
	"testing"

	"golang.org/x/oauth2"
)

// TestLogoutEndsWithItsContext: whoever gives up on a hub that does not answer
// is not held, and with them everybody who wants a token.
func TestLogoutEndsWithItsContext(t *testing.T) {
	hub := mute{make(chan *http.Request, 1), make(chan struct{})}
	ctx, giveUp := context.WithCancel(context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: hub}))
	ended := make(chan error, 1)
	go func() {
		ended <- revoke(ctx, keptLogin{Token: &oauth2.Token{RefreshToken: "r"}, Server: loginServer{Revoke: "http://auth.invalid/revoke"}})
	}()
	r := <-hub.asked
	giveUp()
	<-r.Context().Done()
	if err := <-ended; err == nil {
		t.Error("it says that the hub was told")
	}
}
