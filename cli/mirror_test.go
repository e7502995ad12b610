package cli

import (
	"encoding/json"
	"net/http"
	"testing"

	"mainstay/api"
)

// TestFencePeer: DRBD goes on at the exit codes 4, 5 and 7, and our own 4 means that the
// outcome is unknown. Only leave may end so.
func TestFencePeer(t *testing.T) {
	t.Setenv("DRBD_RESOURCE", "r0")
	t.Setenv("DRBD_PEERS", "c2")
	h := newHost(t)
	h.serve()
	h.want(peerOutdated, nil, "fence-peer")
	h.want(exitUsage, nil, "fence-peer", "x")
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/part", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(api.Problem{Error: "no right"})
	})
	refusing := newHost(t)
	refusing.listen(mux)
	refusing.want(peerUnknown, []string{"refused", "no right"}, "fence-peer") // at once, or the test does not end in time
	t.Setenv("DRBD_PEERS", "c2 c3")
	h.want(peerUnknown, []string{"writes go on waiting"}, "fence-peer")
	t.Setenv("DRBD_PEERS", "")
	h.want(peerUnknown, []string{"DRBD_PEERS"}, "fence-peer")
}
