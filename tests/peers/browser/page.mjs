// What every page runs: it makes the telephone that it is told to.

import { JsSipPhone } from "./jssip_phone.mjs";
import { SipJsPhone } from "./sipjs_phone.mjs";

const kinds = { jssip: JsSipPhone, sipjs: SipJsPhone };

window.make = (kind, settings) => {
  window.phone = new kinds[kind](settings);
};
