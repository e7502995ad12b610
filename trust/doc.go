// Package trust says who is who in a site: the site's certificate authority, the
// identities it vouches for, the one-time tokens by which hosts join, and the
// keys of heartbeats.
//
// A certificate names one identity, in one URI:
//
//	mainstay:///SITE/host/NAME             a host; voters carry QuorumName besides
//	mainstay:///SITE/operator/read/NAME    a person who may look
//	mainstay:///SITE/operator/operate/NAME a person who may act
//
// Nothing else in it is believed: Peer reads the URI, and Files.Server and
// Files.Client let nobody in whose certificate does not lead to the site's CA,
// is out of date, or names another site. TLS is 1.3 only.
//
// A host joins in four steps, and neither side trusts the other before it may:
//
//  1. On a voter, CA.NewToken makes a token to paste and an Invite to keep. The
//     token holds the CA's pin and a secret, the Invite only the secret's hash.
//  2. The joiner calls ParseToken and dials a voter with Token.Client, which goes
//     on only if the other side shows the CA of that pin and a host certificate
//     under it. Only then is the secret sent, with a request of NewRequest.
//  3. The voter uses the Invite up in the store, once, and calls CA.SignCSR, which
//     puts in what the site's file says of the host, never what the request
//     asks for. It answers with a Grant.
//  4. The joiner calls Files.Install.
//
// Certificates of hosts live 90 days and are renewed over mutual TLS when 30
// are left (Files.Due). Files are read again when they change, so a renewal
// needs no restart. A removed host's certificate stays valid until it ends: give
// Files.Allow a function that looks the identity up among the members.
//
// The CA's key (ca.key) and the master of the beat keys live on voters only.
package trust
