// The mouth of a tunnel.

import { LabIcon } from '@jupyterlab/ui-components';

export const tunnelIcon = new LabIcon({
  name: 'xec_forward:tunnel',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24" fill="none" stroke-width="2.2"
    stroke-linecap="round" stroke-linejoin="round"><g class="jp-icon-selectable" stroke="#616161">
    <path d="M3 19v-5a9 9 0 0 1 18 0v5M8 19v-5a4 4 0 0 1 8 0v5M1.5 19h21"/></g></svg>`
});
