// Package login tells who sends a request to the registry and asks Kubernetes what they
// may do: there are no users and no rights of the registry's own.
//
// A login is a service-account token (as the password, with any user name, or as a
// bearer token), or the name and password of an account, a Secret of type
// gantry.dev/registry-account, or a token that [Logins.Token] gave for one of these. On the
// loopback address user 0 of this machine needs no login: the kernel says whose socket is
// at the other end.
//
// What somebody may do with repository shop/cart is what they may do with the resource
// repositories.gantry.dev "cart" in namespace shop: get (pull), create (push), update
// (move a tag), delete and list.
//
// Guarantees: a deleted or changed account or binding counts for the next request.
// Passwords and tokens are neither logged nor part of errors.
//
// cmd/gantry imports this package.
package login
