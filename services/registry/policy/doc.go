// Package policy keeps the RegistryPolicies of all namespaces: it tells the registry what
// holds for a repository, removes tags as their retention rules say, and writes the
// policies' status.
//
// Guarantees: until the policies are known nothing is changed in the registry; a policy
// that cannot be read does not loosen what another one demands. What is deployed keeps
// its tags.
//
// cmd/gantry imports this package.
package policy
