// Icons of 16 by 16, drawn with one stroke width. They repeat what a label says, so they are hidden
// from assistive technology.

const paths = {
  overview: 'M2 9.5 8 3l6 6.5M4 8v5.5h8V8',
  workloads: 'M2.5 5 8 2l5.5 3v6L8 14l-5.5-3zM2.5 5 8 8l5.5-3M8 8v6',
  pods: 'M3 3h4v4H3zM9 3h4v4H9zM3 9h4v4H3zM9 9h4v4H9z',
  namespaces: 'M2 4.5h4.5L8 6h6v7H2z',
  gateway: 'M2 8h4m4 0h4M6 8a2 2 0 1 0 4 0 2 2 0 1 0-4 0M11.5 5.5 14 8l-2.5 2.5',
  map: 'M3 4a1.5 1.5 0 1 0 3 0 1.5 1.5 0 1 0-3 0M10 6a1.5 1.5 0 1 0 3 0 1.5 1.5 0 1 0-3 0M5 12a1.5 1.5 0 1 0 3 0 1.5 1.5 0 1 0-3 0M6 4.3l4 1.3M5 5.5l1.2 5M7.5 11l3-3.7',
  images: 'M2.5 3.5h11v9h-11zM2.5 10l3-3 3 3 2-2 3 3',
  builds: 'M9.5 2.5 13 6l-2 2-3.5-3.5zM8.5 5.5l-6 6 2 2 6-6',
  volumes: 'M3 4.5C3 3.4 5.2 2.5 8 2.5s5 .9 5 2-2.2 2-5 2-5-.9-5-2zM3 4.5v7c0 1.1 2.2 2 5 2s5-.9 5-2v-7M3 8c0 1.1 2.2 2 5 2s5-.9 5-2',
  graph: 'M2 13.5h12M3 11l3.5-4 2.5 2 4-5.5',
  logs: 'M3 4h10M3 7h7M3 10h10M3 13h5',
  alerts: 'M8 2.5c2.5 0 4 1.8 4 4.2V9l1.3 2.5H2.7L4 9V6.700c0-2.400 1.500-4.200 4-4.200zM6.500 13.500h3',
  audit: 'M8 2l5 2v4c0 3-2 5-5 6-3-1-5-3-5-6V4zM5.800 8l1.600 1.600L10.500 6.500',
  search: 'M7 2.500a4.500 4.500 0 1 0 0 9 4.500 4.500 0 1 0 0-9M10.300 10.300 13.500 13.500',
  sun: 'M8 5.300a2.700 2.700 0 1 0 0 5.400 2.700 2.700 0 1 0 0-5.400M8 1.500v1.500M8 13v1.500M1.500 8H3M13 8h1.500M3.400 3.400l1 1M11.600 11.600l1 1M3.400 12.600l1-1M11.600 4.400l1-1',
  moon: 'M13 9.500A5.500 5.500 0 0 1 6.500 3a5.500 5.500 0 1 0 6.500 6.500z',
  auto: 'M8 2.500a5.500 5.500 0 1 0 0 11 5.500 5.500 0 1 0 0-11M8 2.500v11M8 5h3.500M8 8h5.500M8 11h3.500',
  menu: 'M2.500 4h11M2.500 8h11M2.500 12h11',
  close: 'M4 4l8 8M12 4l-8 8',
  chevron: 'M6 4l4 4-4 4',
  user: 'M8 3a2.500 2.500 0 1 0 0 5 2.500 2.500 0 1 0 0-5M3 13.500c.500-2.500 2.500-3.500 5-3.500s4.500 1 5 3.500',
  restart: 'M13 8a5 5 0 1 1-1.500-3.600M13 2.500V5h-2.500',
  scale: 'M2.500 8h11M5 5.500 2.500 8 5 10.500M11 5.500 13.500 8 11 10.500',
  rollback: 'M5.500 3 2.500 6l3 3M2.500 6H10a3.500 3.500 0 0 1 0 7H6',
  shell: 'M2.500 3h11v10h-11zM5 6l2 2-2 2M8.500 10.500H11',
  check: 'M3 8.500l3.500 3.500L13 4.500',
  warn: 'M8 2.500 14 13H2zM8 6.500V9.500M8 11.300v.200',
  deploy: 'M8 13V4M4.500 7.500 8 4l3.500 3.500',
  dot: 'M8 6a2 2 0 1 0 0 4 2 2 0 1 0 0-4',
} as const
export type IconName = keyof typeof paths

export function Icon({ name }: { name: IconName }) {
  return <svg class="icon" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" focusable="false"><path d={paths[name]} /></svg>
}
