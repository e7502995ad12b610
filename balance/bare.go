package balance

import "bytes"

// Bare is a rendered configuration with the operators' snippets left out but for their
// names: they may hold passwords (userlist, stats auth).
func Bare(text []byte) []byte {
	var out []byte
	ours := true
	for line := range bytes.Lines(text) {
		title := bytes.HasPrefix(line, []byte(snippetTitle))
		ours = ours && !title // they follow all that is ours
		if ours || title {
			out = append(out, line...)
		}
	}
	return out
}
