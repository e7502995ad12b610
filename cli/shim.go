package cli

import (
	"io"

	"mainstay/service"
)

// Shim answers in the place of one of Pacemaker's programs that OCF resource agents
// call, when the binary was called by its name; is says whether it was.
func Shim(argv []string, stdout, stderr io.Writer) (code int, is bool) {
	return service.Shim(argv, stdout, stderr)
}
