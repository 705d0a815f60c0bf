import { createSetting } from './store'

/** auto, light or dark. */
export const theme = createSetting('gantry.theme', 'auto')

const dark = matchMedia('(prefers-color-scheme: dark)')
export const isDark = () => theme.get() === 'dark' || (theme.get() === 'auto' && dark.matches)

const apply = () => { document.documentElement.dataset.theme = isDark() ? 'dark' : 'light'; dispatchEvent(new Event('themechange')) }
dark.addEventListener('change', apply)
theme.subscribe(apply)
apply()
