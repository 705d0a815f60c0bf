import './style/font.css'
import './style/base.css'
import './style/layout.css'
import './style/parts.css'
import './theme'
import { render } from 'preact'
import { App } from './app'
import { resume } from './session'

void resume()
render(<App />, document.getElementById('app')!)
