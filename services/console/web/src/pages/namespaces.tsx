import { PageHead } from '../ui/parts'
export default function Page({ params }: { params: Record<string, string> }) { return <PageHead title={params.name ?? ''} /> }
