package fleet

import "slices"

// Face is one entry of a service in HAProxy: what its clients connect to. A service has
// one, and one more for each of its further writers.
type Face struct {
	// Name is that of its section in HAProxy, of its row in the routing table, and of the
	// record of its writer: the service's, or SERVICE-WRITER.
	Name string
	// Writer is which of the service's further writers it is; "" for the service's own face.
	Writer string
	Port   int
	// Order is the service's homes in the order in which they take the writes.
	Order []string
}

// Faces returns the entries of a service in HAProxy, none if it is not behind it. Each
// begins with another one of its homes, so that the writers are spread over them.
func (s Service) Faces(homes []string) []Face {
	if s.Listen.Port == 0 {
		return nil
	}
	out := []Face{{Name: s.Name, Port: s.Listen.Port, Order: homes}}
	if !s.Listen.Writer {
		return out
	}
	sorted := slices.Sorted(slices.Values(homes))
	out[0].Order = sorted
	for i, name := range Sorted(s.Listen.Writers) {
		f := Face{Name: s.Name + "-" + name, Writer: name, Port: s.Listen.Writers[name]}
		for k := range sorted {
			f.Order = append(f.Order, sorted[(k+i+1)%len(sorted)])
		}
		out = append(out, f)
	}
	return out
}

// Next is the first host behind another one in the order of a face, and then from its
// beginning on, of which fit says that it may take the writes; "" if there is none. It is
// the one to which HAProxy goes by itself when that other one refuses a connection.
func (f Face) Next(after string, fit func(host string) bool) string {
	at := slices.Index(f.Order, after)
	for k := range f.Order {
		if host := f.Order[(at+1+k)%len(f.Order)]; fit(host) {
			return host
		}
	}
	return ""
}
