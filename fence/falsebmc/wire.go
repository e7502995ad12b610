package falsebmc

import (
	"encoding/json"
	"io"
	"net/http"
)

// maxBody bounds what a client may send.
const maxBody = 64 << 10

// readCloser lets a handler read again what has been read already.
type readCloser struct{ io.Reader }

func (readCloser) Close() error { return nil }

func copyBody(to io.Writer, w http.ResponseWriter, r *http.Request) (int64, error) {
	return io.Copy(to, http.MaxBytesReader(w, r.Body, maxBody))
}

func link(to string) map[string]any { return map[string]any{"@odata.id": to} }

// answer writes v as JSON. A client that has left is no concern of a BMC.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// complain answers in Redfish's form of an error.
func complain(w http.ResponseWriter, status int, id, text string) {
	id = "Base.1.8." + id
	answer(w, status, map[string]any{"error": map[string]any{
		"code": id, "message": text,
		"@Message.ExtendedInfo": []any{map[string]any{"MessageId": id, "Message": text}},
	}})
}
