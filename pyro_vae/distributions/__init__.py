"""What Pyro lacks: distributions, transforms, links, supports, summaries."""

from .joint import Cells as Cells
from .joint import Chain as Chain
from .joint import Joint as Joint
from .mixture import Mixture as Mixture
from .multivariate import LogisticNormal as LogisticNormal
from .multivariate import Multinomial as Multinomial
from .pushed import Pushed as Pushed
from .sphere import VonMisesFisher as VonMisesFisher
from .univariate import Bernoulli as Bernoulli
from .univariate import Categorical as Categorical
from .univariate import DiscretizedLogistic as DiscretizedLogistic
from .univariate import HalfCauchy as HalfCauchy
from .univariate import HalfNormal as HalfNormal
from .univariate import HorseshoeLike as HorseshoeLike
from .univariate import Normal as Normal
from .univariate import OrderedLogistic as OrderedLogistic
from .univariate import StudentT as StudentT
from .univariate import ZeroInflatedNegativeBinomial as ZeroInflatedNegativeBinomial
