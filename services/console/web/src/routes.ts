// The routes and policies that pages look at.

import { useMemo } from 'preact/hooks'
import { useKind } from './kube/paths'
import { loading } from './ui/parts'
import { ofGatewayRoute, ofIngress, type GatewayRoute, type Ingress, type Policy, type Route } from './gateway'

export function useRoutes(namespace?: string) {
  const http = useKind<GatewayRoute>('httproutes', namespace), grpc = useKind<GatewayRoute>('grpcroutes', namespace), tls = useKind<GatewayRoute>('tlsroutes', namespace)
  const tcp = useKind<GatewayRoute>('tcproutes', namespace), ingresses = useKind<Ingress>('ingresses', namespace)
  const items = useMemo<Route[]>(() => [
    ...http.items.map(r => ofGatewayRoute('HTTPRoute', r)), ...grpc.items.map(r => ofGatewayRoute('GRPCRoute', r)), ...tls.items.map(r => ofGatewayRoute('TLSRoute', r)),
    ...tcp.items.map(r => ofGatewayRoute('TCPRoute', r)), ...ingresses.items.map(ofIngress),
  ], [http.items, grpc.items, tls.items, tcp.items, ingresses.items])
  return { items, views: [http, ingresses], loading: loading(http, ingresses) }
}

export function usePolicies(): Policy[] {
  const access = useKind<Policy>('accesspolicies', ''), traffic = useKind<Policy>('trafficpolicies', ''), backend = useKind<Policy>('backendpolicies', '')
  return useMemo(() => [
    ...access.items.map(p => ({ ...p, kind: 'AccessPolicy' })), ...traffic.items.map(p => ({ ...p, kind: 'TrafficPolicy' })), ...backend.items.map(p => ({ ...p, kind: 'BackendPolicy' })),
  ], [access.items, traffic.items, backend.items])
}
